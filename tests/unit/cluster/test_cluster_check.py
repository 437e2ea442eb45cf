"""`raysweep cluster check`: the shipped files with what is to be filled in, broken in one place at a time."""

# ruff: noqa: E501 (a table has a line for each case)

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raysweep.cli import main
from raysweep.cluster.check import check_cluster_file, installed_ray
from raysweep.cluster.files import PLACEHOLDER, read_cluster_file
from raysweep.errors import SpecError

ROOT = Path(__file__).parents[3]

FILLED = {
    "<your-group>": "sg-0123456789abcdef0",
    "<your-project>": "vae-search", "<your-region>": "europe-west4", "<your-zone>": "europe-west4-a",
    "<your-image>": "common-cu130-ubuntu-2204-nvidia-580-v20261101", "<your-bucket>": "vae-results",
    "<your-location>": "westeurope", "<your-subscription>": "00000000-0000-0000-0000-000000000001",
    "<your-image-version>": "26.11.01", "<your-container>": "results", "<your-account>": "vaeresults",
    "<your-identity-client-id>": "00000000-0000-0000-0000-000000000002", "<your-head>": "10.0.0.1",
    "<your-first-worker>": "10.0.0.2", "<your-second-worker>": "10.0.0.3", "<your-user>": "ada",
    "<your-shared-directory>": "/shared/results", "<your-registry>": "registry.example.org/vae",
}  # fmt: skip

AWS = f"""
cluster_name: raysweep
max_workers: 8
provider:
  type: aws
  region: eu-central-1
  cache_stopped_nodes: false
  security_group:
    GroupName: raysweep
    IpPermissions:
      - {{FromPort: 22, ToPort: 22, IpProtocol: tcp, IpRanges: [{{CidrIp: 198.51.100.7/32}}]}}
auth: {{ssh_user: ubuntu}}
available_node_types:
  head:
    resources: {{CPU: 0, GPU: 0}}
    max_workers: 0
    node_config:
      InstanceType: m7i.large
      ImageId: ami-0123456789abcdef0
      IamInstanceProfile: {{Name: raysweep-head}}
      MetadataOptions: {{HttpTokens: required}}
      BlockDeviceMappings: [{{DeviceName: /dev/sda1, Ebs: {{Encrypted: true, VolumeType: gp3}}}}]
  gpu:
    resources: {{CPU: 4, GPU: 1}}
    max_workers: 8
    node_config:
      InstanceType: g6.xlarge
      ImageId: ami-0123456789abcdef0
      IamInstanceProfile: {{Name: raysweep-worker}}
      MetadataOptions: {{HttpTokens: required}}
      InstanceMarketOptions: {{MarketType: spot}}
      BlockDeviceMappings: [{{DeviceName: /dev/sda1, Ebs: {{Encrypted: true, VolumeType: gp3}}}}]
head_node_type: head
file_mounts: {{~/.ray/auth_token: ~/.ray/auth_token}}
setup_commands:
  - pip install ray=={installed_ray()} raysweep
  - echo 'export RAY_AUTH_MODE=token RAYSWEEP_RESULTS=s3://vae-results' >> ~/.bashrc
head_start_ray_commands: [ray start --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml]
worker_start_ray_commands: [ray start --address=$RAY_HEAD_IP:6379]
"""
"""A sound file of AWS in short, whose every rule is its own; that of cluster/ is held to the same by the tests below."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with keys and a token, and the checkout as the working directory."""
    path = tmp_path / "home"
    for name in (".ssh/id_ed25519", ".ssh/id_ed25519.pub", ".ray/auth_token"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("content")
        (path / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.chdir(ROOT)
    return path


def text_of(name: str) -> str:
    """A shipped file with everything filled in."""
    if name == "aws":
        return AWS
    text = (ROOT / "cluster" / name).read_text()
    if name == "aws.yaml":
        text = text.replace("<your-image>", "ami-0123456789abcdef0")
    for placeholder, value in FILLED.items():
        text = text.replace(placeholder, value)
    return text


def faults_of(text: str, tmp_path: Path) -> list[tuple[str, str]]:
    path = tmp_path / "cluster.file"
    path.write_text(text)
    try:
        check_cluster_file(path)
    except SpecError as error:
        return [(fault.key, fault.message) for fault in error.faults]
    return []


NAMES = ("aws", "aws.yaml", "gcp.yaml", "azure.yaml", "on-prem.yaml", "kuberay.yaml", "slurm.sbatch")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_missing_in_a_file_that_is_filled_in(name: str, tmp_path: Path) -> None:
    assert faults_of(text_of(name), tmp_path) == []


SHIPPED = [path.name for path in sorted((ROOT / "cluster").glob("*.yaml"))]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_lacks_what_is_to_be_filled_in_and_nothing_else(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_cluster_file(ROOT / "cluster" / name)
    assert all("is still to be filled in" in fault.message for fault in caught.value.faults), caught.value
    for fault in caught.value.faults:
        if not fault.line:  # of a policy beside the file
            continue
        line = (ROOT / "cluster" / name).read_text().splitlines()[fault.line - 1]
        named = PLACEHOLDER.search(fault.message)
        assert named
        assert named[0] in line or ">-" in line


BREAKS: dict[str, tuple[str, str, str, str, str]] = {
    "unknown key": ("gcp.yaml", "idle_timeout_minutes: 5", "idle_timeout_mins: 5", "idle_timeout_mins", "did you mean idle_timeout_minutes"),
    "no region": ("gcp.yaml", "  region: europe-west4\n", "", "provider.region", "is missing"),
    "another Ray": ("gcp.yaml", "ray[default]==2.60.0", "ray[default]==2.9.3", "setup_commands", r"installs Ray 2.9.3, this machine has 2\.60"),
    "an unpinned Ray": ("aws", f"ray=={installed_ray()}", "ray", "setup_commands", r"no fixed version of Ray; wanted: ray==2\.60"),
    "a nightly Ray": ("gcp.yaml", "'ray[default]==2.60.0'", "ray-3.0.0.dev0-cp311.whl", "setup_commands", "nightly"),
    "no token mode": ("gcp.yaml", "RAY_AUTH_MODE=token ", "", "setup_commands", "answer to everyone.*RAY_AUTH_MODE=token"),
    "no token sent": ("azure.yaml", "  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "file_mounts", "token does not reach"),
    "open dashboard": ("gcp.yaml", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "head_start_ray_commands", r"listens on 0\.0\.0\.0"),
    "Ray's own start": ("gcp.yaml", "head_start_ray_commands", "initialization_commands", "head_start_ray_commands", "is missing; Ray's own opens the dashboard"),
    "head trains": ("gcp.yaml", "resources: {CPU: 0, GPU: 0}", "resources: {CPU: 4, GPU: 0}", "available_node_types.head.resources.CPU", "would run trials: 4; wanted: 0"),
    "head's CPUs not said": ("aws", "resources: {CPU: 0, GPU: 0}", "resources: {}", "available_node_types.head.resources.CPU", "all that it has; wanted: 0"),
    "own head trains": ("on-prem.yaml", "--num-cpus=0 ", "", "head_start_ray_commands", "would run trials.*--num-cpus=0"),
    "a worker's cores": ("azure.yaml", "resources: {CPU: 64, GPU: 4}", "resources: {GPU: 4}", "available_node_types.gpu4.resources.CPU", "is missing, so that no trial would wait"),
    "no workers": ("azure.yaml", "max_workers: 8\nupscaling", "max_workers: 0\nupscaling", "max_workers", "no worker is ever started"),
    "how many workers": ("azure.yaml", "max_workers: 8\nupscaling", "upscaling", "max_workers", "is missing, so that Ray starts 2"),
    "more heads": ("aws", "    max_workers: 0\n", "", "available_node_types.head.max_workers", "wanted: 0"),
    "no such head": ("gcp.yaml", "head_node_type: head", "head_node_type: haed", "head_node_type", "is 'haed'; wanted: one of head, gpu1, gpu4, cpu"),
    "no autoscaler": ("gcp.yaml", "--autoscaling-config=~/ray_bootstrap_config.yaml", "", "head_start_ray_commands", "no worker would ever be started"),
    "no such mount": ("gcp.yaml", "/search_spaces: search_spaces", "/search_spaces: nowhere", "file_mounts.~/raysweep/search_spaces", "nowhere is not on this machine"),
    "no such key": ("on-prem.yaml", "~/.ssh/id_ed25519", "~/.ssh/other", "auth.ssh_private_key", "ssh-keygen -t ed25519 -f ~/.ssh/other"),
    "stopped machines": ("azure.yaml", "cache_stopped_nodes: false", "cache_stopped_nodes: true", "provider.cache_stopped_nodes", "disks paid for; wanted: false"),
    "spot head": ("aws", "InstanceType: m7i.large", "InstanceType: m7i.large\n      InstanceMarketOptions: {MarketType: spot}", "available_node_types.head.node_config", "spot machine"),
    "no bucket": ("gcp.yaml", "gs://", "", "setup_commands", "no bucket is named.*gs://bucket"),
    "no such provider": ("gcp.yaml", "type: gcp", "type: vsphere", "provider.type", "wanted: aws, gcp, azure or local"),
    "open SSH": ("aws", "198.51.100.7/32", "0.0.0.0/0", "provider.security_group.IpPermissions[0].IpRanges[0].CidrIp", "SSH is open to the world: 0.0.0.0/0; wanted: your address"),
    "another open port": ("aws", "IpRanges: [{CidrIp: 198.51.100.7/32}]}", "IpRanges: [{CidrIp: 198.51.100.7/32}]}\n      - {FromPort: 8265, ToPort: 8265, IpProtocol: tcp, Ipv6Ranges: [{CidrIpv6: '::/0'}]}", "provider.security_group.IpPermissions[1].Ipv6Ranges[0].CidrIpv6", "port 8265 is open to the world"),
    "Ray's own group": ("aws", "  security_group:\n", "  other:\n", "provider.security_group", "Ray would make one with port 22 open to the world"),
    "no rule for SSH": ("aws", "FromPort: 22", "FromPort: 23", "provider.security_group.IpPermissions", "does not let you in"),
    "no instance profile": ("aws", "      IamInstanceProfile: {Name: raysweep-worker}\n", "", "available_node_types.gpu.node_config.IamInstanceProfile", "could not write to the bucket"),
    "the head's profile": ("aws", "raysweep-worker", "raysweep-head", "available_node_types.gpu.node_config.IamInstanceProfile", "is the head's"),
    "no image": ("aws", "ImageId: ami-0123456789abcdef0\n      IamInstanceProfile: {Name: raysweep-head}", "IamInstanceProfile: {Name: raysweep-head}", "available_node_types.head.node_config.ImageId", "wanted: one image"),
    "IMDSv1": ("aws", "MetadataOptions: {HttpTokens: required}\n      Instance", "MetadataOptions: {HttpTokens: optional}\n      Instance", "available_node_types.gpu.node_config.MetadataOptions.HttpTokens", "IMDSv1.*wanted: required"),
    "plain disk": ("aws", "Encrypted: true, VolumeType: gp3}}]\n  gpu", "Encrypted: false, VolumeType: gp3}}]\n  gpu", "available_node_types.head.node_config.BlockDeviceMappings[0].Ebs.Encrypted", "is False; wanted: true"),
    "the image's disk": ("aws", "      BlockDeviceMappings: [{DeviceName: /dev/sda1, Ebs: {Encrypted: true, VolumeType: gp3}}]\nhead", "head", "available_node_types.gpu.node_config.BlockDeviceMappings", "would be as the image has it"),
    "default network": ("gcp.yaml", "      networkInterfaces: &network\n", "      others: &network\n", "available_node_types.head.node_config.networkInterfaces", "default network, whose port 22 is open to the world"),
    "no account": ("gcp.yaml", "      serviceAccounts: *worker\n", "", "available_node_types.cpu.node_config.serviceAccounts", "could not write results"),
    "the head's account": ("gcp.yaml", "raysweep-worker@vae-search.iam.gserviceaccount.com\n          scopes: [https://www.googleapis.com/auth/dev", "raysweep-head@vae-search.iam.gserviceaccount.com\n          scopes: [https://www.googleapis.com/auth/dev", "available_node_types.gpu1.node_config.serviceAccounts", "is the head's"),
    "an image family": ("gcp.yaml", "global/images/", "global/images/family/", "available_node_types.head.node_config.disks[0].initializeParams.sourceImage", "changes with time"),
    "the latest image": ("azure.yaml", "26.11.01", "latest", "available_node_types.head.node_config.azure_arm_parameters.imageVersion", "changes with time"),
    "no identity": ("azure.yaml", "  msi_name: raysweep\n", "", "provider.msi_name", "Storage Blob Data Contributor"),
    "second autoscaler": ("on-prem.yaml", "export RAY_enable_autoscaler_v2=0 ", "export ", "head_start_ray_commands", "RAY_enable_autoscaler_v2=0"),
    "no own workers": ("on-prem.yaml", "[10.0.0.2, 10.0.0.3]", "[]", "provider.worker_ips", "names no machine"),
    "a worker twice": ("on-prem.yaml", "10.0.0.3", "10.0.0.2", "provider.worker_ips[1]", "10.0.0.2 is there twice"),
    "the head as worker": ("on-prem.yaml", "10.0.0.3", "10.0.0.1", "provider.worker_ips[1]", "10.0.0.1 is there twice"),
    "types of own machines": ("on-prem.yaml", "auth:", "available_node_types: {}\nauth:", "available_node_types", "remove it"),
    "no user": ("on-prem.yaml", "  ssh_user: ada\n", "", "auth.ssh_user", "is missing"),
    "another Ray in pods": ("kuberay.yaml", "rayVersion: 2.60.0", "rayVersion: 2.9.3", "spec.rayClusterSpec.rayVersion", r"is 2\.9\.3, this machine has 2\.60"),
    "no policy": ("kuberay.yaml", "kind: NetworkPolicy", "kind: Other", "spec", "wanted: a NetworkPolicy"),
    "no sweep": ("kuberay.yaml", "raysweep run", "python run.py", "spec.entrypoint", "wanted: raysweep run FILE"),
    "results in pods": ("kuberay.yaml", "--output s3://vae-results/kld", "--output /tmp/kld", "spec.entrypoint", "would go with the pods"),
    "how many trials wait": ("kuberay.yaml", " --max-concurrent 32", "", "spec.entrypoint", "wanted: --max-concurrent N"),
    "outlives": ("kuberay.yaml", "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "spec.shutdownAfterJobFinishes", "wanted: true"),
    "no deadline": ("kuberay.yaml", "activeDeadlineSeconds", "deadlineSeconds", "spec.activeDeadlineSeconds", "cost money for ever"),
    "no deadline for pods": ("kuberay.yaml", "preRunningDeadlineSeconds", "runningSeconds", "spec.preRunningDeadlineSeconds", "without end"),
    "no token in pods": ("kuberay.yaml", "mode: token", "mode: disabled", "spec.rayClusterSpec.authOptions.mode", "is disabled.*wanted: token"),
    "open service": ("kuberay.yaml", "    headGroupSpec:\n", "    headGroupSpec:\n      serviceType: LoadBalancer\n", "spec.rayClusterSpec.headGroupSpec.serviceType", "opens the dashboard"),
    "open ingress": ("kuberay.yaml", "    headGroupSpec:\n", "    headGroupSpec:\n      enableIngress: true\n", "spec.rayClusterSpec.headGroupSpec.enableIngress", "opens the dashboard"),
    "head pod trains": ("kuberay.yaml", 'num-cpus: "0"', 'num-cpus: "2"', "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", "would run trials"),
    "no scaling": ("kuberay.yaml", "enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "spec.rayClusterSpec.enableInTreeAutoscaling", "wanted: true"),
    "no pods": ("kuberay.yaml", "maxReplicas: 8", "maxReplicas: 0", "spec.rayClusterSpec.workerGroupSpecs", "no trial could ever start"),
    "latest image in pods": ("kuberay.yaml", "raysweep:0.1.0\n              env", "raysweep:latest\n              env", "spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].image", "changes with time"),
    "no account in pods": ("kuberay.yaml", "serviceAccountName: raysweep\n            securityContext: *unprivileged\n            volumes: *cache\n            tol", "tol", "spec.rayClusterSpec.workerGroupSpecs[0].template.spec.serviceAccountName", "could not write to the bucket"),
    "no limits": ("kuberay.yaml", 'limits: {cpu: "2", memory: 8Gi}', "limits: {memory: 8Gi}", "spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].resources.limits.cpu", "Ray goes by it"),
    "privileged": ("kuberay.yaml", "securityContext: &bare\n", "securityContext: &bare\n                privileged: true\n", "spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].securityContext", "no privileges"),
    "no nodes": ("slurm.sbatch", "#SBATCH --nodes=2\n", "", "--nodes", "is missing"),
    "no time limit": ("slurm.sbatch", "#SBATCH --time=08:00:00\n", "", "--time", "is missing"),
    "two tasks a node": ("slurm.sbatch", "--ntasks-per-node=1", "--ntasks-per-node=2", "--ntasks-per-node", "is 2; wanted: 1"),
    "shared nodes": ("slurm.sbatch", "#SBATCH --exclusive\n", "", "--exclusive", "port 6379"),
    "no token on nodes": ("slurm.sbatch", "export RAY_AUTH_MODE=token\n", "", "RAY_AUTH_MODE", "every user of the nodes"),
    "too late": ("slurm.sbatch", "set -euo pipefail\n", "set -euo pipefail\n#SBATCH --mem=0\n", "--mem", "behind the first command"),
    "no srun": ("slurm.sbatch", "srun --kill", "echo --kill", "srun", "wanted: srun ray symmetric-run"),
    "not waited for": ("slurm.sbatch", '--min-nodes "$SLURM_JOB_NUM_NODES" ', "", "--min-nodes", "first node alone"),
    "a Ray of its own": ("slurm.sbatch", 'env RAY_ADDRESS="$address" ', "", "RAY_ADDRESS", "a Ray of its own"),
    "too short a wait": ("slurm.sbatch", "export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300", "true", "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT", "30 s"),
    "partition left open": ("slurm.sbatch", "##SBATCH --partition", "#SBATCH --partition", "", "<your-partition> is still to be filled in"),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKS)
def test_a_thing_that_is_wrong_is_named_with_its_key_and_what_is_wanted(what: str, tmp_path: Path) -> None:
    name, old, new, key, message = BREAKS[what]
    text = text_of(name)
    assert old in text
    found = faults_of(text.replace(old, new), tmp_path)
    assert any(at == key and re.search(message, said) for at, said in found), found


def test_a_token_is_wanted_on_this_machine_that_nobody_else_can_read(home: Path, tmp_path: Path) -> None:
    token = home / ".ray/auth_token"
    token.chmod(0o644)
    assert [message for _, message in faults_of(AWS, tmp_path)] == [
        f"{token}: other users can read it (mode 644); type: chmod 600 {token}"
    ]
    token.write_text("")
    assert "is empty" in faults_of(AWS, tmp_path)[0][1]
    token.unlink()
    assert faults_of(AWS, tmp_path)[0][1].endswith(f"type: ray get-auth-token --generate && chmod 600 {token}")
    assert faults_of(text_of("kuberay.yaml"), tmp_path) == []  # whose operator makes it


def test_constraints_that_are_sent_along_say_which_ray_is_installed(tmp_path: Path) -> None:
    sent = tmp_path / "checkout"
    sent.mkdir()
    text = AWS.replace(f"ray=={installed_ray()} raysweep", "-c ~/raysweep/constraints.txt ~/raysweep")
    text = text.replace("{~/.ray", f"{{~/raysweep: {sent}, ~/.ray")
    assert "no fixed version of Ray" in faults_of(text, tmp_path)[0][1]
    (sent / "constraints.txt").write_text("ray==2.9.3\n")
    assert "installs Ray 2.9.3" in faults_of(text, tmp_path)[0][1]
    (sent / "constraints.txt").write_text(f"ray=={installed_ray()}\n")
    assert faults_of(text, tmp_path) == []


def test_what_costs_money_all_the_time_is_a_reminder(tmp_path: Path) -> None:
    path = tmp_path / "aws.yaml"
    path.write_text(AWS)
    assert check_cluster_file(path).reminders == ("the head costs money from ray up until ray down",)
    path.write_text(
        AWS.replace("resources: {CPU: 4, GPU: 1}", "resources: {CPU: 4, GPU: 1}\n    min_workers: 2").replace(
            "{MarketType: spot}", "{}"
        )
    )
    assert check_cluster_file(path).reminders[1:] == (
        "2 machines of type gpu cost money also while nothing runs (min_workers)",
        "machines of type gpu are on demand, which costs more than spot",
    )


def test_policies_beside_a_file_are_to_be_filled_in_too(tmp_path: Path) -> None:
    (tmp_path / "aws.yaml").write_text(AWS)
    policy = tmp_path / "aws-head-policy.json"
    policy.write_text('{"Resource": "arn:aws:s3:::<your-bucket>"}')
    with pytest.raises(SpecError, match=f"{policy}: <your-bucket> is still to be filled in"):
        check_cluster_file(tmp_path / "aws.yaml")
    policy.write_text('{"Resource": "arn:aws:s3:::vae-results"}')
    check_cluster_file(tmp_path / "aws.yaml")


def test_a_security_group_that_is_only_named_is_a_reminder(tmp_path: Path) -> None:
    path = tmp_path / "aws.yaml"
    path.write_text(text_of("aws.yaml"))
    assert any("what sg-0123456789abcdef0 lets in" in reminder for reminder in check_cluster_file(path).reminders)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["cluster", "check", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_command_ends_with_0_and_says_so_or_with_2_and_all_faults_at_once(tmp_path: Path) -> None:
    path = tmp_path / "aws.yaml"
    path.write_text(AWS)
    code, output = run(str(path))
    assert (code, output.splitlines()[0]) == (0, f"{path}: nothing is missing")
    path.write_text(AWS.replace("ami-0123456789abcdef0", "<your-image>").replace("198.51.100.7/32", "0.0.0.0/0"))
    code, output = run(str(path))
    assert code == 2
    assert output.startswith(f"{path}: 3 faults, nothing was started\n")
    assert output.endswith(f"Correct it, then type: raysweep cluster check {path}\n")
    assert "line 11: provider.security_group.IpPermissions[0].IpRanges[0].CidrIp: SSH is open" in output


OTHERS = {
    "a search space": "name: kld\ndata: {dataset: digits}\n", "empty": "", "a list": "- 1\n", "not YAML": "a: [\n",
    "a loop": "cluster_name: a\nprovider: &p {type: aws, self: *p}\n",
    "too much": "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "deep": "[" * 10_000, "not text": "\0",
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_another_file_is_one_message(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(OTHERS[kind])
    code, output = run(str(path))
    assert (code, output.count("fault")) == (2, 1)


def test_a_missing_file_and_a_directory_are_one_message(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        code, output = run(str(path))
        assert (code, output.count("cannot be read")) == (2, 1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_value_of_any_other_kind_anywhere_is_a_fault_or_none_and_never_a_traceback(
    data: st.DataObject, tmp_path: Path
) -> None:
    import yaml

    name = data.draw(st.sampled_from([name for name in NAMES if name != "slurm.sbatch"]))
    documents = list(yaml.safe_load_all(text_of(name)))
    node = documents[0]
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(node[key], dict | list) and node[key]) or data.draw(st.booleans()):
            node[key] = data.draw(VALUES)
            break
        node = node[key]
    faults_of(yaml.safe_dump_all(documents), tmp_path)


def test_a_file_is_read_as_what_it_is() -> None:
    kinds = {name: read_cluster_file(ROOT / "cluster" / name).kind.value for name in NAMES if name != "aws"}
    assert kinds == {
        "aws.yaml": "ray up",        "gcp.yaml": "ray up", "azure.yaml": "ray up", "on-prem.yaml": "ray up", "kuberay.yaml": "kubectl",
        "slurm.sbatch": "sbatch",
    }  # fmt: skip
