"""cluster/aws.yaml from `ray up` to `ray down` on a fake AWS: the file as it is shipped, filled in as its header says.

Only three things are patched: the installation, which would need the internet, becomes the environment of the tests
with the checkout that `ray up` has copied; the paths follow from that; machines are idle for seconds, not minutes.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.cloud import REGION, SETTINGS, Cloud, Instance
from tests.cluster.hosts import REPOSITORY, Host, Network

pytestmark = pytest.mark.usefixtures("fake_hosts")

LAPTOP = "198.51.100.7"
PATH = f"{sys.prefix}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IDLE_MINUTES = 0.3
TRIALS, EPOCHS = 5, 90
"""So many that two trials are still to be trained when a worker's loss is made good, some 40 seconds after it."""
TINY = f"""
name: tiny
data: {{dataset: digits, image_size: 16}}
trial:
  kld_weight: {{low: 1e-5, high: 1e-1, log: true}}
  learning_rate: 3e-3
  d_size: 4
  latent_size: 4
  hidden_size: 16
  epochs: {EPOCHS}
search: {{trials: {TRIALS}, sampler: random, max_concurrent: 2}}
resources: {{cpu: 1, gpu: 1}}
evaluation: {{final_metrics: none}}
"""


def commands_of(header: str) -> list[list[str]]:
    """The blocks of commands in the comment at the head of a cluster file."""
    comment = [line.removeprefix("#") for line in header.split("\n\n")[0].splitlines()]
    blocks: list[list[str]] = [[]]
    for line in comment:
        if line.startswith("     "):
            blocks[-1].append(line[5:])
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def filled_in(text: str, **values: str) -> str:
    for name, value in values.items():
        text = text.replace(f"<your-{name}>", value)
    return text


def patched(text: str) -> str:
    """Without what needs the internet, and with a patience of seconds."""
    text, lines = re.subn(r"(?m)^  - (test -x ~/|~/.local/bin/uv).*\n", "", text)
    assert lines == 3
    for old, new in (
        ('PATH="$HOME/venv/bin:$PATH"', f'PATH="{PATH}" PYTHONPATH="$HOME/raysweep"'),
        ("idle_timeout_minutes: 5", f"idle_timeout_minutes: {IDLE_MINUTES}"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


class Story:
    """What is typed on the laptop, and when what came of it."""

    def __init__(self, laptop: Host, cloud: Cloud) -> None:
        self.laptop = laptop
        self.cloud = cloud
        self.took_s: dict[str, float] = {}

    def type(self, command: str, timeout: float = 200) -> str:
        """What a command prints, typed in the checkout; its end has to be success."""
        typed = "bash", "-c", f"cd raysweep && {command}"
        return self.laptop.run(*typed, timeout=timeout, PATH=PATH, PYTHONUNBUFFERED="1").stdout

    def aws(self, command: str) -> Any:
        return json.loads(self.type(f"aws {command}"))

    def run(self, command: str, name: str) -> str:
        start = time.monotonic()
        said = self.type(command)
        self.took_s[name] = time.monotonic() - start
        return said

    def wait(self, what: Callable[[], Any], name: str, seconds: float = 150) -> Any:
        """What a condition yields as soon as it is true."""
        start = time.monotonic()
        while not (found := what()):
            assert time.monotonic() - start < seconds, f"{name}: waited for {seconds:g} s\n{self._log()}"
            time.sleep(0.5)
        self.took_s[name] = time.monotonic() - start
        return found

    def epochs(self, uri: str) -> dict[int, int]:
        """The newest checkpoint of each trial in the bucket."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        names = self.aws(f"s3api list-objects-v2 --bucket {bucket} --prefix {prefix} --query Contents[].Key") or []
        found: dict[int, int] = {}
        for name in names:
            if match := re.search(r"trials/(\d+)/epoch-(\d+)", name):
                trial, epoch = map(int, match.groups())
                found[trial] = max(epoch, found.get(trial, 0))
        return found

    def _log(self) -> str:
        """What the head tells of its jobs and its autoscaler."""
        logs = "/tmp/ray/session_latest/logs"
        command = f"ray job list; tail -n 30 {logs}/job-driver-*; grep -v updater {logs}/monitor.log | tail -n 40"
        return f"{self.cloud.running()}\n{self.type(f'ray exec cluster/aws.yaml {shlex.quote(command)} 2>&1 || true')}"


@pytest.fixture(scope="module")
def story(fake_hosts: None) -> Iterator[Story]:
    with Network(environment=SETTINGS) as network, Cloud(network) as cloud:
        laptop = network.start("laptop", [LAPTOP])
        laptop.run("rsync", "-a", "--exclude=/.*", f"{REPOSITORY}/", "raysweep")
        program = laptop.path("/usr/local/bin/aws")
        program.write_text(f"#!{sys.executable}\n{(REPOSITORY / 'tests/cluster/scripts/aws').read_text()}")
        program.chmod(0o755)
        yield Story(laptop, cloud)


def prepare(story: Story) -> tuple[str, str, str]:
    """Types the commands of the header, and fills in the files. Returns those that start, run and stop."""
    file = story.laptop.path("raysweep/cluster/aws.yaml")
    text = filled_in(file.read_text(), region=REGION, bucket="results", address=LAPTOP)
    daily, once = commands_of(text)
    for policy in story.laptop.path("raysweep/cluster").glob("aws-*-policy.json"):
        policy.write_text(filled_in(policy.read_text(), bucket="results"))
    (group_line,) = (number for number, line in enumerate(once) if "create-security-group" in line)
    group = json.loads(story.type(once[group_line]))["GroupId"]
    rest = "\n".join(once[:group_line] + once[group_line + 1 :])
    story.type("set -e\n" + filled_in(rest, group=group))
    image = story.aws("ec2 describe-images --query Images[0].ImageId")
    text = filled_in(text, group=group, image=image)
    assert "<your" not in text
    file.write_text(text)
    start, run, stop = daily
    check, start = start.split(" && ")
    assert "nothing is missing" in story.type(check)
    file.write_text(patched(text))
    story.laptop.path("raysweep/search_spaces/tiny.yaml").write_text(TINY)
    return start, run.replace("kld", "tiny"), stop


def require_safe(story: Story, instances: dict[str, dict[str, Any]]) -> None:
    """What may cost money, leak or be entered: every machine and every rule of its groups."""
    profiles = {(launch["InstanceType"], launch["IamInstanceProfile.Name"]) for launch in story.cloud.launches}
    assert profiles == {("m7i.large", "raysweep-head"), ("g6.2xlarge", "raysweep-worker")}
    for _, profile in profiles:
        (role,) = story.aws(f"iam get-instance-profile --instance-profile-name {profile} --query InstanceProfile.Roles")
        assert role["RoleName"] == profile
    groups = set()
    for kind, found in instances.items():
        assert found["MetadataOptions"]["HttpTokens"] == "required", kind
        role = "head" if kind == "m7i.large" else "worker"
        assert found.get("InstanceLifecycle") == (None if role == "head" else "spot")
        groups |= {group["GroupId"] for group in found["SecurityGroups"]}
        (volume,) = story.aws(
            f"ec2 describe-volumes --query Volumes --filters "
            f"""'[{{"Name": "attachment.instance-id", "Values": ["{found["InstanceId"]}"]}}]'"""
        )
        assert (volume["Encrypted"], volume["VolumeType"]) == (True, "gp3")
    (group,) = story.aws(f"ec2 describe-security-groups --group-ids {' '.join(groups)} --query SecurityGroups")
    assert group["GroupName"] == "raysweep"
    for rule in group["IpPermissions"]:
        within = [pair["GroupId"] for pair in rule["UserIdGroupPairs"]]
        outside = [entry["CidrIp"] for entry in rule["IpRanges"]] + rule["Ipv6Ranges"] + rule["PrefixListIds"]
        if outside:
            assert (rule["FromPort"], rule["ToPort"], outside) == (22, 22, [f"{LAPTOP}/32"])
        assert set(within) <= groups


def require_closed(head: Host, worker: Host) -> None:
    """Who has no token gets nothing from the head; who is on another machine not even an answer."""
    ask = """
import sys, urllib.error, urllib.request
try:
    asked = urllib.request.Request(f"http://{sys.argv[1]}:8265/api/jobs/")
    if sys.argv[2:]: asked.add_header("Authorization", f"Bearer {sys.argv[2]}")
    print(urllib.request.urlopen(asked, timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print(error)
"""

    def answer(host: Host, address: str, *token: str) -> str:
        return host.run(sys.executable, "-c", ask, address, *token).stdout.strip()

    token = head.path(".ray/auth_token").read_text().strip()
    assert answer(head, "127.0.0.1") == "401"
    assert answer(head, "127.0.0.1", "0" * len(token)) in ("401", "403")
    assert answer(head, "127.0.0.1", token) == "200"
    assert "refused" in answer(worker, head.address, token)


def require_few_rights(story: Story, head: Host) -> None:
    """The head asked AWS for nothing that its policy does not let it, and workers for nothing but objects."""
    policy = json.loads((REPOSITORY / "cluster/aws-head-policy.json").read_text())
    allowed = {action for statement in policy["Statement"] for action in statement["Action"] if len(action) > 1}
    allowed |= {statement["Action"] for statement in policy["Statement"] if isinstance(statement["Action"], str)}
    asked = {call for call in story.cloud.calls if call.service != "s3" and call.address != LAPTOP}
    assert {call.address for call in asked} == {head.address}
    assert {f"{call.service}:{call.action}" for call in asked} <= allowed


def trains_on(head: Host, trial: int) -> list[str]:
    """The hosts that a trial has trained on, as the log of the sweep has it."""
    (log,) = head.path(".cache/raysweep/sweeps").glob("*/raysweep.log")
    return re.findall(rf"trial {trial} trains on (\S+)", log.read_text())


def trials_on(head: Host, instance: Instance) -> list[int]:
    """The trials that train on a worker now, of the first two."""
    return [trial for trial in (0, 1) if trains_on(head, trial)[-1:] == [instance.host_name]]


def test_a_sweep_on_aws_from_ray_up_to_ray_down(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    cloud, hosts = story.cloud, story.laptop.network.hosts
    start, run, stop = prepare(story)
    story.run(start, "ray up")
    (head_instance,) = cloud.running()
    assert (head_instance.kind, head_instance.is_spot) == ("m7i.large", False)
    head = hosts[head_instance.host_name]

    began = time.monotonic()
    story.run(run, "submit")
    uri = "s3://results/tiny"
    first, second = story.wait(lambda: len(found := cloud.running("g6.2xlarge")) == 2 and found, "two workers")
    before = story.wait(lambda: len(found := story.epochs(uri)) == 2 and found, "first epochs on both")
    story.took_s["idle cluster to first epochs"] = time.monotonic() - began
    assert max(before.values()) < EPOCHS, "the sweep is too fast to be interrupted"

    (lost,) = trials_on(head, second)
    cloud.interrupt(second)
    story.wait(lambda: len(trains_on(head, lost)) == 2, "interruption to the trial going on elsewhere")
    story.wait(lambda: len(cloud.running("g6.2xlarge")) == 2, "a machine in place of the one that was taken")
    described = story.aws("ec2 describe-instances --query Reservations[].Instances[]")
    running = {found["InstanceType"]: found for found in described if found["State"]["Name"] == "running"}
    assert set(running) == {"m7i.large", "g6.2xlarge"}
    require_safe(story, running)
    require_closed(head, hosts[first.host_name])
    story.wait(lambda: "SUCCEEDED" in story.type("ray exec cluster/aws.yaml 'ray job list'"), "end of the sweep", 300)

    story.wait(lambda: not cloud.running("g6.2xlarge"), "idle workers end")
    assert cloud.running() == [head_instance]
    require_few_rights(story, head)
    story.run(stop, "ray down")
    assert cloud.running() == []
    with capsys.disabled():
        print("".join(f"\n    {took:6.1f} s  {name}" for name, took in story.took_s.items()))
    require_nothing_lost(story, uri)


def require_nothing_lost(story: Story, uri: str) -> None:
    """Asked from the laptop, where no Ray runs and no machine of the cluster is left."""
    code = """
import json, sys, raysweep
from raysweep.storage.remote import RemoteDirectory
sweep = raysweep.open_sweep(sys.argv[1])
print(json.dumps({
    "states": [record.state.value for record in sweep.records],
    "epochs": [[row.metrics.epoch for row in record.epochs] for record in sweep.records],
    "log": RemoteDirectory.at(sys.argv[1]).read("raysweep.log").decode(),
}))
"""
    found = json.loads(
        story.laptop.run(sys.executable, "-c", code, uri, PYTHONPATH=f"{story.laptop.home}/raysweep").stdout
    )
    assert found["states"] == ["completed"] * TRIALS
    assert found["epochs"] == [list(range(1, EPOCHS + 1))] * TRIALS
    again = re.findall(r"has (\d+) epochs, .* (?:epoch (\d+)|none); what lies between is trained again", found["log"])
    assert [int(told) - int(saved or 0) for told, saved in again] in ([], [1]), "of one fault, at most one epoch"
    objects = story.aws("s3api list-objects-v2 --bucket results --query Contents[].Key")
    for name in ("trials.parquet", "epochs.parquet", "tensorboard/sweep", "figures"):
        assert any(key.startswith(f"tiny/report/{name}") for key in objects), name
    assert f"finished, {TRIALS} of {TRIALS} trials ended" in story.type(f"raysweep status {uri}")
