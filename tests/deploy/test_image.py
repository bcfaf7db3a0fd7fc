"""The container image: what the Dockerfile promises, and, where buildah is, what comes of it.

`make image-test` builds the unmodified Dockerfile and runs what it makes, which takes minutes the first time: so not in
`make test`. Its bases are stand-ins from Debian's packages under the names of the real ones, since a registry of images
cannot be had everywhere; what is tested is our part of the image.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
BUILT = ROOT / ".image"
MISSING = [part for part in ("buildah", "mmdebstrap", "unshare", "chroot") if shutil.which(part) is None]
WHY_NOT = (
    "make image-test builds an image"
    if not os.environ.get("IMAGE_TEST")
    else f"needs {', '.join(MISSING)}"
    if MISSING
    else "needs root for namespaces"
    if os.geteuid() != 0
    else ""
)
builds = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
GRACE_S = 60.0


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def of(name: str) -> list[str]:
    return [rest for word, rest in instructions() if word == name]


def test_each_base_is_an_argument_so_that_a_release_can_name_it_by_digest() -> None:
    arguments = dict(rest.split("=", 1) for rest in of("ARG"))
    bases = [re.match(r"\$\{(\w+)\}", rest) for rest in of("FROM")]
    assert len(bases) == 2
    for base in bases:
        assert base is not None
        assert ":" in arguments[base[1]].rpartition("/")[2], "a base without a tag is whatever is newest"


def test_every_package_is_locked_by_hash() -> None:
    installs = re.findall(r"-m pip install ([^&]*)", " ".join(of("RUN")))
    assert installs
    for options in installs:
        assert "--no-deps" in options
        assert "--require-hashes" in options or "--no-index" in options


def test_it_runs_as_somebody_without_a_name_or_rights_and_its_check_needs_no_shell() -> None:
    [user] = of("USER")
    assert all(part.isdigit() and int(part) >= 10_000 for part in user.split(":"))
    [check] = of("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[1:] == ["-m", "governors.probe"]
    for words in (*of("ENTRYPOINT"), *of("CMD")):
        assert isinstance(json.loads(words), list), "a shell form needs a shell, which swallows SIGTERM"


def test_what_the_image_says_of_itself_is_what_the_project_says() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"VERSION={version[1]}" in of("ARG")
    labels = " ".join(of("LABEL"))
    for name in ("title", "description", "licenses", "version", "revision", "created"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_only_what_it_is_built_from_is_sent_to_the_builder() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignored[0] == "*", "what is not named is not sent"
    sent = {line[1:] for line in ignored if line.startswith("!")}
    copied = {word for rest in of("COPY") if not rest.startswith("--from") for word in rest.split()[:-1]}
    assert sent == copied


# What a build makes of it


def buildah(*arguments: str) -> str:
    storage = ("--root", str(BUILT / "store"), "--runroot", str(BUILT / "run"), "--storage-driver", "overlay")
    done = subprocess.run(["buildah", *storage, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, f"buildah {arguments[0]}: {done.stdout[-4_000:]}\n{done.stderr[-4_000:]}"
    return done.stdout


def stand_in_base(names: Sequence[str]) -> None:
    """Debian's own Python under the names of the bases. The real second one has less in it, and no shell."""
    folder = BUILT / "base"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "base.tar").exists():
        packages = "python3,python3-venv,python3-pip,ca-certificates,libexpat1,libstdc++6"
        subprocess.run(
            ["mmdebstrap", "--variant=essential", f"--include={packages}", "bookworm", str(folder / "new.tar")],
            check=True, capture_output=True,
        )  # fmt: skip
        (folder / "new.tar").rename(folder / "base.tar")
    if not set(names) <= set(buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()):
        (folder / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        buildah("bud", "--isolation", "chroot", *(word for name in names for word in ("-t", name)), str(folder))


class Container:
    """What a container runtime would run: the image's own command and environment, as its user, on a read-only root
    with the volume alone to write to, in namespaces of its own but for the network.
    """

    def __init__(self, image: str, port: int, settings: dict[str, str]) -> None:
        self.name = buildah("from", "--pull-never", image).strip()
        self.root = Path(buildah("mount", self.name).strip())
        self.config: dict[str, Any] = json.loads(buildah("inspect", self.name))["Docker"]["config"]
        [volume] = self.config["Volumes"]
        self.uid, self.gid = self.config["User"].split(":")
        self.env = {**dict(one.split("=", 1) for one in self.config["Env"]), "GOVERNORS_HTTP__PORT": str(port)}
        self.env |= settings
        self.url = f"http://127.0.0.1:{port}"
        made = f"uid={self.uid},gid={self.gid},mode=0700"
        script = f"""
          set -e
          mount --bind {self.root} {self.root}
          mount --bind -o ro {self.root} {self.root}
          mount -t tmpfs -o {made} tmpfs {self.root}{volume}
          mount -t proc proc {self.root}/proc
          exec chroot --userspec={self.uid}:{self.gid} --groups= {self.root} "$@"
        """
        command = [*self.config["Entrypoint"], *self.config["Cmd"]]
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if '"event":"ready"' in line:
                ready: dict[str, Any] = json.loads(line)
                return ready
        raise AssertionError("it ended before it was ready:\n" + "".join(said))

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Another process in the container's namespaces, with its user and root."""
        entered = ["nsenter", f"--target={self.process.pid}", "--mount", "chroot"]
        entered += [f"--userspec={self.uid}:{self.gid}", "--groups=", str(self.root)]
        return subprocess.run([*entered, *command], env=self.env, capture_output=True, text=True, check=False)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        buildah("umount", self.name)
        buildah("rm", self.name)


@pytest.fixture(scope="module")
def image() -> str:
    arguments = dict(rest.split("=", 1) for rest in of("ARG"))
    stand_in_base([arguments["BUILD_IMAGE"], arguments["RUN_IMAGE"]])
    (BUILT / "pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    authorities = "/etc/ssl/certs/ca-certificates.crt"  # this machine may reach the package index by a proxy of its own
    mounts = ("-v", f"{authorities}:{authorities}:ro", "-v", f"{BUILT / 'pip.conf'}:/etc/pip.conf:ro")
    options = ("--isolation", "chroot", "--pull-never", "--format", "docker", "--layers")
    buildah("bud", *options, *mounts, "--build-arg", "REVISION=0123abc", "-t", "governors:test", ".")
    return "governors:test"


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    from benchmarks.support_process import free_port  # noqa: PLC0415 - not where nothing is built

    made = Container(image, free_port(), {"GOVERNORS_TENANTS__AUTO_CREATE": "true"})
    try:
        yield made
    finally:
        made.close()


@builds
@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_the_image_runs_read_only_and_without_rights_answers_its_probes_and_stops_in_time(
    container: Container,
) -> None:
    ready = container.wait_ready()
    assert ready["data_dir"] == "/var/lib/governors"
    with httpx.Client(base_url=container.url) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").json()["ready"] is True
        signal_ = {
            "id": "q-1", "source": "test", "tenant": "acme", "kind": "queue.sample", "subject": "orders",
            "observed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "data": {"depth": 12, "oldest_age_s": 0.4, "in_rate_per_s": 3, "done_rate_per_s": 3},
        }  # fmt: skip
        [result] = client.post("/v1/signals", json=signal_).json()["results"]
        assert result["outcome"] == "decided"
    check = container.inside("/usr/bin/python3", "-m", "governors.probe")
    assert (check.returncode, check.stderr) == (0, "")
    status = Path(f"/proc/{container.process.pid}/status").read_text()
    assert re.search(r"^Uid:\t65532\t65532\t65532\t65532$", status, re.MULTILINE)
    write = container.inside("/usr/bin/python3", "-c", "open('/opt/governors/x', 'w')")
    assert "Read-only file system" in write.stderr
    container.process.send_signal(signal.SIGTERM)
    assert container.process.wait(GRACE_S) == 0


@builds
@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_nothing_but_python_modules_was_added_and_none_is_compiled_at_the_start(image: str) -> None:
    name = buildah("from", "--pull-never", image).strip()
    try:
        root = Path(buildah("mount", name).strip())
        added = root / "opt/governors"
        assert sorted(one.name for one in (root / "opt").iterdir()) == ["governors"]
        assert not (added / "bin").exists(), "no console scripts: their first line names a Python of the builder's"
        sources = [path for path in added.rglob("*.py") if "governors/governors" in str(path)]
        assert sources
        tag = sys.implementation.cache_tag
        assert tag == "cpython-311"
        for path in sources:
            assert (path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc").exists()
        labels = json.loads(buildah("inspect", name))["Docker"]["config"]["Labels"]
        assert labels["org.opencontainers.image.revision"] == "0123abc"
        megabytes = sum(path.stat().st_size for path in added.rglob("*") if path.is_file()) / 1e6
        sys.stdout.write(f"\nour part of the image: {megabytes:.0f} MB\n")
    finally:
        buildah("umount", name)
        buildah("rm", name)
