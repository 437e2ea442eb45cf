"""Hints in messages, and the one table of names that other tools use for our keys and values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from raysweep.metrics import FINAL_METRICS, FINAL_PREFIX, METRICS

KLD_WEIGHT = "trial.kld_weight"


class _Row(NamedTuple):
    """The names that other tools use for one key."""

    key: str
    """Dotted path of the key; empty for something that raysweep has no key for."""
    names: str
    note: str = ""
    """How the key differs from what the names mean in other tools."""


_KEYS = (
    _Row(
        KLD_WEIGHT,
        "beta kl_weight kl kld kl_beta beta_kl kl_coeff kl_coef kl_lambda kl_loss_weight beta_vae vae_beta",
    ),
    _Row("trial.learning_rate", "lr alpha step_size lrate base_lr initial_lr init_lr learn_rate eta0 adam_lr max_lr"),
    _Row(
        "trial.latent_size",
        "latent_dim latent_dims z_dim zdim dim_z nz z_size n_z z latent latents n_latents num_latents latent_dimension "
        "latent_dimensions latent_channels embedding_dim embedding_size code_size code_dim bottleneck bottleneck_size",
    ),
    _Row(
        "trial.batch_size",
        "bs batch minibatch minibatch_size train_batch_size per_device_train_batch_size batchsize",
    ),
    _Row(
        "trial.epochs",
        "n_epochs num_epochs nb_epochs max_epochs epoch training_iterations iterations num_train_epochs",
    ),
    _Row(
        "trial.d_size",
        "width filters n_filters num_filters base_channels hidden_channels ngf ndf nf ch model_width",
        "the channels that conv_blocks counts in",
    ),
    _Row(
        "trial.hidden_size",
        "hidden_dim hidden hidden_units n_hidden num_hidden fc_size dense_size linear_size h_dim",
    ),
    _Row(
        "trial.conv_blocks",
        "hidden_dims depth layers n_layers num_layers n_blocks num_blocks blocks architecture arch network "
        "encoder decoder",
        "one word for each convolution, such as d/2 2d/2 4d/2",
    ),
    _Row("trial.kernel_size", "kernel filter_size ksize kernel_width"),
    _Row("trial.batch_norm", "batchnorm bn use_bn use_batch_norm norm normalization normalisation"),
    _Row("trial.negative_slope", "activation nonlinearity act_fn leaky_relu leaky_slope", "0 is ReLU, 0.2 LeakyReLU"),
    _Row("trial.upsampling", "upsample upsample_mode deconv"),
    _Row(
        "trial.likelihood",
        "loss loss_fn loss_function criterion recon_loss reconstruction_loss recon reconstruction output_distribution "
        "decoder_distribution decoder_dist observation_model",
        "gaussian for squared error, bernoulli for cross-entropy",
    ),
    _Row(
        "trial.sigma",
        "std stdev scale sigma_x obs_std observation_std decoder_std decoder_sigma output_std",
        "a standard deviation",
    ),
    _Row("trial.reduction", "loss_reduction reduce recon_reduction size_average"),
    _Row(
        "trial.kld_warmup_epochs",
        "warmup warmup_epochs kl_warmup kl_warmup_epochs kl_anneal kl_annealing anneal annealing anneal_epochs "
        "annealing_epochs beta_warmup beta_anneal n_epochs_kl_warmup",
    ),
    _Row("trial.kld_cycle_epochs", "cycle cycles cyclical cyclical_annealing n_cycles kl_cycle"),
    _Row(
        "trial.free_bits_nats",
        "free_bits freebits free_nats min_kl lambda_free",
        "in nats a latent; 1 bit is 0.693 nats",
    ),
    _Row("trial.binarise", "binarize binary binarization binarisation dynamic_binarization"),
    _Row(
        "trial.input_dropout",
        "dropout dropout_rate drop_rate p_dropout",
        "of the input's pixels; no layer has dropout",
    ),
    _Row("trial.input_noise", "noise noise_std denoising denoise noise_factor"),
    _Row("trial.rotation_degrees", "rotation rotate random_rotation max_rotation degrees augment augmentation"),
    _Row("trial.brightness_jitter", "brightness jitter color_jitter colour_jitter"),
    _Row("trial.autocontrast_probability", "autocontrast contrast random_autocontrast"),
    _Row("trial.learning_rate_schedule", "lr_schedule lr_scheduler schedule scheduler learning_rate_scheduler decay"),
    _Row("trial.learning_rate_factor", "gamma lr_decay lr_gamma lr_factor factor learning_rate_decay decay_rate"),
    _Row("trial.learning_rate_epochs", "milestones lr_milestones lr_step_size decay_epochs lr_epochs"),
    _Row("trial.learning_rate_patience_epochs", "patience lr_patience"),
    _Row(
        "trial.max_gradient_norm",
        "grad_clip clip clip_grad clip_grad_norm gradient_clip gradient_clip_val max_grad_norm clipnorm "
        "clip_norm clipping",
    ),
    _Row("trial.precision", "amp mixed_precision fp16 bf16 dtype half use_amp"),
    _Row("trial.seed", "random_state random_seed manual_seed rng_seed trial_seed"),
    _Row(
        "",
        "optimizer optimiser optim weight_decay l2 l2_reg momentum betas adam_beta1 beta1 beta2 epsilon eps",
        "there is no such key: every trial is trained by Adam (0.9, 0.999) without weight decay",
    ),
    _Row(
        "search.trials",
        "n_trials num_trials num_samples max_trials n_samples samples max_evals n_iter run_cap count n_calls",
    ),
    _Row("search.objective.metric", "metric monitor target eval_metric objective_metric optimize score"),
    _Row("search.objective.mode", "mode direction goal minimize maximize optimization_direction"),
    _Row("search.sampler", "search_alg algorithm algo method search_algorithm strategy suggest tuner"),
    _Row(
        "search.early_stopping",
        "scheduler pruner asha hyperband pruning early_terminate stopper stop early_stop successive_halving",
        "written early_stopping: {asha: {grace_epochs: 5}}",
    ),
    _Row("search.early_stopping.asha.grace_epochs", "grace_period grace min_resource min_epochs min_iter min_t"),
    _Row("search.early_stopping.asha.reduction_factor", "eta factor reduction rf halving_factor"),
    _Row("search.early_stopping.asha.promote", "promotion promoting pause pausing"),
    _Row("search.early_stopping.asha.max_epochs", "max_t max_resource max_iter epochs n_epochs num_epochs"),
    _Row("search.time_budget", "timeout time_limit max_time walltime time_budget_s max_hours max_duration budget time"),
    _Row("search.epoch_timeout", "trial_timeout hang_timeout epoch_limit"),
    _Row(
        "search.max_concurrent",
        "n_jobs concurrency parallel parallelism max_concurrent_trials workers num_workers n_workers jobs max_parallel",
    ),
    _Row(
        "search.enqueue",
        "points_to_evaluate initial initial_points start_points warm_start baseline baselines first",
    ),
    _Row("search.start_from", "past previous previous_sweeps warm_start_from transfer transfer_from history"),
    _Row("search.prior", "hint hints guess beliefs expected prior_values"),
    _Row("search.seed", "random_state random_seed sampler_seed"),
    _Row("search.fuse", "fused vmap batch_trials"),
    _Row(
        "data.root",
        "path dir folder directory data_dir data_path data_root image_dir images_dir image_folder root_dir location "
        "train_dir images",
    ),
    _Row("data.dataset", "name set source kind type data_set dataset_name"),
    _Row(
        "data.image_size",
        "size img_size im_size resolution image_width image_height height width input_size imsize crop_size",
    ),
    _Row(
        "data.channels",
        "n_channels num_channels in_channels image_channels grayscale greyscale gray grey color colour "
        "color_mode rgb nc",
        "1 for grey, 3 for colour",
    ),
    _Row("data.fit", "resize resize_mode padding pad crop"),
    _Row(
        "data.validation_fraction",
        "val_fraction val_split validation_split valid_split valid_fraction val_size validation val",
    ),
    _Row("data.test_fraction", "test_split test_size test"),
    _Row("data.split_seed", "seed random_state split_random_state"),
    _Row("data.broken_images", "skip_broken on_error errors ignore_errors"),
    _Row("resources.cpu", "cpus num_cpus n_cpus cores cpus_per_trial cpu_per_trial threads"),
    _Row("resources.gpu", "gpus num_gpus n_gpus gpus_per_trial gpu_per_trial device accelerator cuda"),
    _Row("evaluation.final_metrics", "finals finalists metrics test_metrics top_k"),
    _Row("evaluation.images", "n_images num_images test_images"),
    _Row("evaluation.importance_samples", "iwae_samples iwae k num_importance_samples n_importance_samples"),
    _Row(
        "trial",
        "params parameters hyperparameters hyperparams hparams config space search_space param_space model "
        "train training",
    ),
    _Row("search", "tune study sweep optimization optimisation tune_config hpo"),
    _Row("data", "datasets data_config dataloader"),
    _Row("data.dataset", "dataset data_set"),
    _Row("evaluation", "eval evaluate final test"),
    _Row("resources", "resource resources_per_trial compute hardware"),
    _Row("claims", "hypotheses hypothesis claim findings"),
    _Row("name", "experiment title experiment_name project study_name run_name sweep_name"),
    _Row("", "output results output_dir results_dir save_dir log_dir logdir storage_path",
         "where results go is no part of the file: raysweep run FILE --output DIR"),
)  # fmt: skip

_IN_DISTRIBUTIONS = (
    _Row("low", "min minimum lower lower_bound from start a"),
    _Row("high", "max maximum upper upper_bound to stop end b"),
    _Row(
        "log",
        "log_scale logarithmic scale distribution dist type prior base loguniform log_uniform",
        "log: true for a logarithmic scale, left out for a uniform one",
    ),
    _Row("step", "q quantum step_size increment delta"),
    _Row("choices", "values options categories categorical choice grid list candidates value one_of"),
)

_VALUES = {
    "trial.likelihood": {
        "gaussian": "mse l2 normal squared_error se gauss",
        "bernoulli": "bce binary_cross_entropy cross_entropy crossentropy binary bernouilli",
        "continuous_bernoulli": "cb contbern continuousbernoulli",
        "calibrated_gaussian": "sigma_vae optimal_sigma calibrated",
        "learned_gaussian": "learned heteroscedastic nll gaussian_nll learned_sigma",
    },
    "trial.reduction": {
        "pixel_mean": "mean average avg mse",
        "sum": "none total elbo",
        "pixel_and_latent_mean": "mean_both latent_mean",
    },
    "trial.learning_rate_schedule": {
        "constant": "none fixed null off",
        "step": "multistep multi_step steplr multisteplr",
        "plateau": "reduce_on_plateau reducelronplateau",
        "cosine": "cosine_annealing cos cosineannealing cosineannealinglr",
    },
    "trial.batch_norm": {"all": "true yes on both", "none": "false no off", "linear": "dense fc", "conv": "cnn"},
    "trial.precision": {
        "bfloat16": "bf16 amp mixed 16-mixed bf16-mixed half",
        "float32": "fp32 32 full single",
    },
    "trial.binarise": {"threshold": "true fixed static", "sampled": "dynamic stochastic random", "none": "false no"},
    "search.sampler": {
        "auto": "default",
        "gp": "gaussian_process bayesopt botorch gpsampler mobster",
        "tpe": "bayes bayesian bo optuna hyperopt tpesampler",
        "random": "rand uniform randomsearch",
        "grid": "gridsearch exhaustive",
    },
    "search.objective.mode": {"max": "maximize maximise maximum higher", "min": "minimize minimise minimum lower"},
    "data.dataset": {
        "mnist-5k": "mnist5k mnist_small small_mnist",
        "fashion_mnist": "fashion fmnist",
        "cifar10": "cifar",
        "folder": "imagefolder image_folder images directory dir files own custom celeba faces",
    },
    "data.broken_images": {"skip": "ignore drop warn", "error": "fail raise stop"},
    "evaluation.final_metrics": {"all": "true yes every", "none": "false no off", "best 5": "best top"},
}  # fmt: skip
"""For each key its values, each with the names that other tools use."""

_METRICS = {
    "elbo_nats": "elbo val_elbo bound lower_bound nll neg_elbo nelbo log_likelihood loglik logpx log_px "
    "marginal_likelihood",
    "elbo_binary_nats": "binary_elbo elbo_bernoulli",
    "bits_per_dim": "bpd bits bits_per_dimension bits_per_pixel bpp",
    "mse": "recon recon_loss reconstruction reconstruction_loss reconstruction_error recon_error val_mse l2 rmse mae "
    "val_recon_loss",
    "psnr_db": "psnr ssim lpips",
    "r2": "r_squared explained_variance",
    "rate_nats": "kl kld kl_loss kl_divergence kld_loss rate",
    "distortion_nats": "distortion",
    "active_units": "au active_latents n_active",
    "images_per_s": "throughput speed images_per_second",
    "val_loss": "loss validation_loss valid_loss eval_loss test_loss objective",
    "test_kid": "fid kid is inception_score frechet_inception_distance mmd",
    "test_iwae_nats": "iwae iwelbo iw_elbo",
    "test_probe_accuracy": "accuracy acc val_acc val_accuracy probe linear_probe",
    "test_silhouette": "silhouette cluster clustering",
}
"""For each metric, the names that other tools use."""

_CONTAINS_THE_WEIGHT = "which contains the KLD weight and compares only trials that have the same"


_TRUTHS = {"true": ("yes", "on", "y", "1"), "false": ("no", "off", "n", "0")}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_DATASETS = (*_VALUES["data.dataset"], "digits", "mnist")


def plain(name: object) -> str:
    """Return a name in lower case without hyphens, underscores, dots and spaces: `Z-Dim` and `z_dim` become equal."""
    return re.sub(r"[-_\s.]+", "", str(name)).lower()


def keys_meant(name: object) -> list[str]:
    """Return the dotted keys that other tools call `name`, in the table's order."""
    wanted = plain(name)
    return [row.key for row in _KEYS if row.key and wanted in map(plain, row.names.split())]


def key_hint(key: object, section: str, allowed: Sequence[str], known: Iterable[str], conversion: str = "") -> str:
    """Return the end of a message about an unknown key: which key is meant, or which are allowed.

    Args:
        key: the key as written in the file.
        section: dotted path of the key's section; empty at the top.
        allowed: the keys of that section.
        known: dotted paths of all keys of a file.
        conversion: text to add if `kld_weight` is meant.
    """
    rows = _IN_DISTRIBUTIONS if "choices" in allowed or "low" in allowed else _KEYS
    here = {(f"{section}." if section and rows is _KEYS else "") + name: name for name in allowed}
    matching = [row for row in rows if plain(key) in map(plain, row.names.split())]
    matching.sort(key=lambda row: (row.key not in here, bool(row.key), not row.key.startswith(f"{section}.")))
    same = [path for path in known if path.rpartition(".")[2] == key and path not in here]
    if rows is _KEYS and same and (not matching or matching[0].key not in here):
        place = "; it stands under " + " or ".join(f"{path.rpartition('.')[0] or 'the top'}:" for path in same)
        return f"{place} ({', '.join(same)})"
    if matching:
        row = matching[0]
        if not row.key:
            return f"; {row.note}"
        note = f" ({row.note})" if row.note else ""
        extra = f". {conversion}" if row.key == KLD_WEIGHT and conversion else ""
        return f"; {key} is {here.get(row.key, row.key)} here{note}{extra}"
    return nearest_key(key, allowed, known)


def nearest_key(key: object, allowed: Sequence[str], known: Iterable[str]) -> str:
    """Return the end of a message about a misspelt key: the nearest here, the nearest elsewhere, or all allowed."""
    close = difflib.get_close_matches(str(key), allowed, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    elsewhere = {path.rpartition(".")[2]: path for path in known}
    close = difflib.get_close_matches(str(key), elsewhere, n=1, cutoff=0.8)
    if close:
        return f"; did you mean {elsewhere[close[0]]}?"
    return f"; allowed: {', '.join(allowed)}"


_WRITTEN = {
    "search.objective": "objective: {metric: elbo_nats}",
    "search.early_stopping": "early_stopping: {asha: {grace_epochs: 5}}",
    "search.early_stopping.asha": "asha: {grace_epochs: 5}",
    "search.enqueue": "enqueue: [{kld_weight: 5e-3, learning_rate: 1e-4}]",
    "search.start_from": "start_from: [results/kld]",
    "search.prior": "prior: {kld_weight: 1e-4}",
}
"""Keys whose values have keys or items of their own, each with an example."""


def value_hint(key: str, value: object, allowed: Iterable[object]) -> str:
    """Return the end of a message about a value that `key` refuses; empty if there is no hint."""
    if key in _WRITTEN:
        return f"; write {_WRITTEN[key]}"
    if key == "evaluation.final_metrics" and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return f"; write final_metrics: best {value}"
    if key == "evaluation.final_metrics" and not isinstance(value, str):
        return "; write final_metrics: all, none, or best 5"
    if value is None:
        return "; nothing stands after its colon"
    for meant, names in _VALUES.get(key, {}).items():
        if plain(value) in map(plain, names.split()):
            return f"; {str(value).lower() if isinstance(value, bool) else value} is {meant} here"
    words = [str(word) for word in allowed if isinstance(word, str)]
    same = [word for word in words if plain(word) == plain(value)]
    close = same or difflib.get_close_matches(str(value).lower(), words, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close and close[0] != value else ""


def truth_hint(value: object) -> str:
    """Return the end of a message about a text where true or false is expected."""
    meant = next((word for word, names in _TRUTHS.items() if plain(value) in names), None)
    return f"; write {meant}" if meant else ""


def number_hint(value: str) -> str:
    """Return the end of a message about a text instead of a number: how to write that number."""
    bare = value.strip()
    if re.fullmatch(_NUMBER, bare):
        return "; numbers stand without quotes"
    without_groups = re.sub(r"(?<=\d)[ _,](?=\d{3}(\D|$))", "", bare)
    if re.fullmatch(_NUMBER, without_groups):
        return f"; write {without_groups}"
    ratio = re.fullmatch(rf"({_NUMBER})\s*/\s*({_NUMBER})", bare)
    if ratio and float(ratio[2]) != 0:
        return f"; write {float(ratio[1]) / float(ratio[2]):.6g}"
    power = re.fullmatch(rf"({_NUMBER})\s*(?:\*\*|\^)\s*({_NUMBER})", bare)
    if power and float(power[1]) > 0 and abs(float(power[2])) < 300:
        return f"; write {float(power[1]) ** float(power[2]):.6g}"
    return ""


def section_hint(section: str, value: object) -> str:
    """Return the end of a message about a section that has a bare value instead of keys and values."""
    if section == "data" and isinstance(value, str):
        folder = "/" in value or value not in _DATASETS
        return f"; write data: {{dataset: {'folder, root: ' if folder else ''}{value}}}"
    if section == "search" and isinstance(value, int) and not isinstance(value, bool):
        return f"; write search: {{trials: {value}}}"
    example = {
        "data": "data: {dataset: mnist-5k}",
        "trial": "trial: {kld_weight: {low: 1e-5, high: 1e-2, log: true}}",
        "search": "search: {trials: 20}",
        "resources": "resources: {cpu: 2}",
        "evaluation": "evaluation: {final_metrics: all}",
    }[section]
    return f"; for example {example}"


def metric_hint(name: str) -> str:
    """Return the end of a message about an objective that is no metric of an epoch: the likely one."""
    if name in FINAL_METRICS:
        return _final_hint(name)
    meant = [metric for metric, names in _METRICS.items() if plain(name) in map(plain, names.split())]
    if not meant:
        everything = [*METRICS, *FINAL_METRICS]
        meant = [metric for metric in everything if plain(metric) == plain(name)]
        meant = meant or difflib.get_close_matches(name, everything, n=1, cutoff=0.6)
        return f"; did you mean {meant[0]}?" if meant else ""
    metric = meant[0]
    if metric in FINAL_METRICS:
        return f"; the nearest is {metric}, which {_final_hint(metric)}"
    if metric == "val_loss":
        return f"; did you mean elbo_nats? {name} is val_loss here, {_CONTAINS_THE_WEIGHT}"
    if METRICS[metric].mode is None:
        return (
            f"; {name} is {metric} here, which describes a trial and is neither better small nor large; use elbo_nats"
        )
    turned = ", more is better" if METRICS[metric].mode == "max" else ", less is better"
    return f"; {name} is {metric} here ({METRICS[metric].meaning}{turned})"


def _final_hint(name: str) -> str:
    """Say why a final metric cannot be the objective, and which metric of an epoch is nearest to it."""
    bare = name.removeprefix(FINAL_PREFIX)
    nearest = next(
        (metric for metric in METRICS if METRICS[metric].mode and (metric == bare or bare.endswith(f"_{metric}"))),
        "bits_per_dim" if "bits" in bare else "elbo_nats",
    )
    return (
        "is measured on the test split, once for each finalist after the sweep: choosing trials by it would make the "
        f"test split a second validation split. The nearest objective is {nearest}; with evaluation: "
        f"{{final_metrics: all}} {name} is measured for every trial, and raysweep best DIR --metric {name} ranks them"
    )


def beta_conversion(value: Any, pixels: int, shape: str, trial: Mapping[Any, Any]) -> str:
    """Say which KLD weight corresponds to a beta in the convention of the file, with its numbers.

    A beta is used as in papers: data term + beta KL, both summed, with squared error / (2 sigma^2) as the data term of
    a Gaussian (docs/metrics.md). `trial` is the file's section; its reduction, likelihood and sigma are used.
    """
    reduction, sigma, likelihood = trial.get("reduction"), trial.get("sigma"), trial.get("likelihood", "gaussian")
    is_gaussian = likelihood == "gaussian"
    is_number = isinstance(sigma, int | float) and not isinstance(sigma, bool) and sigma > 0
    if reduction == "sum":
        kept = "" if is_number or not is_gaussian else ", with sigma: 1.0 for a decoder of unit variance"
        return f"Under reduction: sum, which this file has, kld_weight is beta itself{kept}"
    if reduction not in (None, "pixel_mean"):
        return "Published values of beta are of reduction: sum; docs/metrics.md converts them"
    here = f"with D = {pixels:,} ({shape})"
    if not is_gaussian:
        loss, rule, factor, at = f"the data term of {likelihood}", f"beta / D, {here}", 1 / pixels, ""
    elif is_number:
        loss, rule, factor = "squared error / (2 sigma^2)", f"beta / D at this file's sigma, {here}", 1 / pixels
        at = f" at sigma {sigma:g}"
    else:
        loss, rule, factor = "squared error / (2 sigma^2)", f"2 sigma^2 beta / D, here {here}", 2 / pixels
        at = " at sigma 1"
    numbers = ", ".join(f"beta {beta:g}{at} is kld_weight {beta * factor:.3g}" for beta in _numbers(value))
    kept = f"sigma: {sigma if is_number else 1.0}, " if is_gaussian else ""
    return (
        f"A beta of {loss} + beta KL, both summed, is kld_weight = {rule}: {numbers}. "
        f"To keep the number, write {kept}reduction: sum, kld_weight: beta. docs/metrics.md has all conventions"
    )


def _numbers(value: Any) -> Iterator[float]:
    """Yield the first four numbers of a constant or a distribution; 1 if there are none."""
    items: list[Any] = [value]
    if isinstance(value, Mapping):
        items = [part for item in value.values() for part in (item if isinstance(item, list | tuple) else [item])]
    elif isinstance(value, list | tuple):
        items = list(value)
    found = [float(item) for item in items if isinstance(item, int | float) and not isinstance(item, bool)]
    yield from found[:4] or [1.0]


def distribution_hint(value: str) -> str:
    """Return how to write a call such as `loguniform(1e-4, 1)` here; empty if the text is no such call."""
    call = re.fullmatch(r"(?:\w+\.)*(\w+)\s*\((.*)\)", value.strip())
    if call is None:
        return ""
    name, arguments = call[1].lower(), [part.strip() for part in call[2].strip("[]() ").split(",") if part.strip()]
    if "choice" in name or "categorical" in name or "grid" in name:
        return f"; write {{choices: [{', '.join(arguments)}]}}"
    if not any(word in name for word in ("uniform", "randint", "float", "int")) or len(arguments) < 2:
        return ""
    numbers = [part for part in arguments if re.fullmatch(r"[-+.\deE]+", part)][:2]
    ends = numbers if len(numbers) == 2 else ["...", "..."]
    return f"; write {{low: {ends[0]}, high: {ends[1]}{', log: true' if 'log' in value.lower() else ''}}}"


def distribution_key(name: object) -> str:
    """Return the key of a distribution that other tools call `name`; `name` itself if it is not known."""
    return next((row.key for row in _IN_DISTRIBUTIONS if plain(name) in map(plain, row.names.split())), str(name))
