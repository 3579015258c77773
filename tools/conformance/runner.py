"""Runs OpenStack's own API tests (tempest) against a cloud and says what came of every test of a list.

    tools/conformance/run --url http://127.0.0.1:8787 --password SECRET --only 'tempest.api.network'
    tools/conformance/run --clouds state/clouds.yaml --list interop
    tools/conformance/run --start --list interop --report docs/conformance.md      (make conformance)

Owns: choosing the tests, starting a cloud of its own when asked (free port, throw-away state folder), the
run, the last line `passed P failed F skipped S notrun N of T`, and the report.
Rules: the list is the denominator; a skip is not a pass; a test is never left out because it fails.  The exit
code is 0 only if nothing failed and nothing was left unrun.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import report
import yaml
from discover import Cloud, Refused, discover, render
from fold import Verdict, count, fold

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
OUT = HERE / "out"
COLUMNS = ("passed", "failed", "skipped", "notrun")
READY_TIMEOUT_S = 30.0
PROGRESS_S = 15.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/conformance/run", description="Run OpenStack's own API tests (tempest) against a cloud."
    )
    where = parser.add_argument_group("the cloud")
    where.add_argument(
        "--url", help="base address of a running cloud, e.g. http://127.0.0.1:8787, or its identity address"
    )
    where.add_argument("--clouds", type=Path, help="a clouds.yaml to read address and password from")
    where.add_argument("--cloud", help="its entry (default: virga, or the first one)")
    where.add_argument("--password", help="of the admin user (default: $VIRGA_ADMIN_PASSWORD or $OS_PASSWORD)")
    where.add_argument("--start", action="store_true", help="start a `virga up` of its own and stop it afterwards")
    where.add_argument("--hosts", type=int, default=2, help="emulated hosts with --start (default 2)")
    where.add_argument(
        "--hypervisor",
        choices=("fake", "libvirt"),
        default="fake",
        help="with --start (default fake; libvirt needs root)",
    )
    where.add_argument("--port", type=int, default=0, help="port with --start (default: a free one)")
    where.add_argument("--no-seed", action="store_true", help="make nothing that is missing (roles, images, flavors)")
    where.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a value of tempest.conf.in")
    where.add_argument("--insecure", action="store_true", help="do not check the certificate")
    what = parser.add_argument_group("the tests")
    what.add_argument("--list", help="interop, api, or a file with one regular expression a line")
    what.add_argument("--only", help="regular expression on the test's name; alone it searches all of tempest")
    what.add_argument("--skip", help="regular expression of tests to leave out of this run (never used for the report)")
    what.add_argument("--again", action="store_true", help="only the tests that did not pass last time")
    what.add_argument("--workers", type=int, default=2)
    what.add_argument("--limit", type=int, default=3600, help="seconds for the whole run")
    show = parser.add_argument_group("the result")
    show.add_argument("--report", type=Path, help="write the page of results to this file")
    show.add_argument("--out", type=Path, default=OUT, help="folder of result.json and details (default: %(default)s)")
    show.add_argument("--traces", action="store_true", help="print the whole text of each failure")
    show.add_argument("--show", action="store_true", help="print the selected tests and stop")
    return parser.parse_args()


# ------------------------------------------------------------------ the cloud


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class OwnCloud:
    """`virga up` on a throw-away state folder; stopped by its pid, folder removed."""

    def __init__(self, hosts: int, port: int, out: Path, hypervisor: str = "fake") -> None:
        self.out = out
        self.port = port or free_port()
        self.password = secrets.token_urlsafe(18)
        self.state = Path(tempfile.mkdtemp(prefix="virga-conformance-"))
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = (self.state / "virga.log").open("wb")
        command = [
            str(TOP / ".venv/bin/virga"),
            "up",
            "--hosts",
            str(hosts),
            "--state",
            str(self.state / "cloud"),
        ]
        command += ["--listen", f"127.0.0.1:{self.port}", "--hypervisor", hypervisor]
        if hypervisor == "libvirt":
            command += ["--virt-type", "qemu"]
        self.ready_timeout_s = READY_TIMEOUT_S * (4 if hypervisor == "libvirt" else 1)
        # The rules of [identity] are off by default, as upstream; tempest knows them by these figures.
        config = self.state / "cloud.toml"
        config.write_text(
            "[identity]\nlockout_failure_attempts = 2\nlockout_duration = 5.0\nunique_last_password_count = 2\n"
            # An emulated snapshot is over in milliseconds; a real one lasts long enough for a second request to meet it.
            "[fake.delay_s]\nsnapshot = 0.5\n"
        )
        command += ["--config", str(config)]
        environment = os.environ | {"VIRGA_ADMIN_PASSWORD": self.password}
        environment.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + self.ready_timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Refused(f"virga up ended with code {self.process.returncode}:\n{self.tail()}")
            try:
                with urllib.request.urlopen(self.url + "/identity/v3", timeout=2) as reply:
                    if reply.status == 200 and "hosts are connected" in self.tail():
                        return
            except OSError:
                pass
            time.sleep(0.2)
        raise Refused(f"virga up did not answer within {self.ready_timeout_s:.0f} s:\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join((self.state / "virga.log").read_text(errors="replace").splitlines()[-25:])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.log.close()
        shutil.copy(self.state / "virga.log", self.out / "virga.log")
        shutil.rmtree(self.state, ignore_errors=True)


def identity_url(url: str) -> str:
    """http://h:p -> http://h:p/identity/v3; an address that already names identity is kept."""
    url = url.rstrip("/")
    if re.search(r"/v3$", url):
        return url
    return url + ("/v3" if re.search(r"://[^/]+/.+", url) else "/identity/v3")


def given_cloud(args: argparse.Namespace) -> Cloud:
    password = args.password or os.environ.get("VIRGA_ADMIN_PASSWORD") or os.environ.get("OS_PASSWORD") or ""
    if args.clouds:
        entries = yaml.safe_load(args.clouds.read_text())["clouds"]
        name = args.cloud or ("virga" if "virga" in entries else next(iter(entries)))
        if name not in entries:
            raise Refused(f"{args.clouds} has no cloud {name!r}; it has: {', '.join(entries)}")
        entry = entries[name]
        auth = entry["auth"]
        domain = auth.get("user_domain_name") or auth.get("domain_name") or "Default"
        return Cloud(
            identity_url(args.url or auth["auth_url"]),
            args.password or auth["password"],
            auth["username"],
            auth["project_name"],
            domain,
            entry.get("region_name") or "RegionOne",
            insecure=args.insecure,
        )
    if not args.url:
        raise Refused("say which cloud: --url, --clouds or --start")
    if not password:
        raise Refused("say the admin password: --password, $VIRGA_ADMIN_PASSWORD or --clouds state/clouds.yaml")
    return Cloud(identity_url(args.url), password, insecure=args.insecure)


# ------------------------------------------------------------------ the tests


def patterns(name: str) -> list[str]:
    """The expressions of a list file; what follows a `#` is remark."""
    path = HERE / "lists" / f"{name}.txt"
    if not path.exists():
        path = Path(name)
    if not path.exists():
        raise Refused(f"no list {name!r}; there are: {', '.join(p.stem for p in (HERE / 'lists').glob('*.txt'))}")
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def stestr(work: Path, *words: str) -> list[str]:
    return [str(TOP / ".venv-tempest/bin/stestr"), "--config", str(work / ".stestr.conf"), *words]


def all_tests(work: Path) -> list[str]:
    found = subprocess.run(
        stestr(work, "list"), cwd=work, capture_output=True, text=True, env=environment(work), check=False
    )
    if found.returncode != 0:
        raise Refused("stestr list failed:\n" + (found.stderr or found.stdout)[-2000:])
    return [line.strip() for line in found.stdout.splitlines() if re.match(r"^[\w.]+\.[\w.]+(\[|$)", line.strip())]


def choose(tests: list[str], args: argparse.Namespace) -> list[str]:
    chosen = tests
    if args.list:
        wanted = patterns(args.list)
        joined = [re.compile(p) for p in wanted]
        index: dict[str, list[str]] = {}
        for test in tests:
            for uuid in re.findall(r"id-[0-9a-f-]{36}", test):
                index.setdefault(uuid, []).append(test)
        chosen, missing = [], []
        for pattern in joined:
            uuid = re.search(r"id-[0-9a-f-]{36}", pattern.pattern)
            pool = index.get(uuid.group(0), []) if uuid else tests
            found = [t for t in pool if pattern.search(t)]
            chosen += [t for t in found if t not in chosen]
            if not found:
                missing.append(pattern.pattern)
        for pattern_text in missing:
            print(f"not in this tempest: {pattern_text}", file=sys.stderr)
    if args.only:
        chosen = [t for t in chosen if re.search(args.only, t)]
    if args.skip:
        chosen = [t for t in chosen if not re.search(args.skip, t)]
    if args.again:
        last = json.loads((args.out / "result.json").read_text())["tests"]
        bad = {t["test"] for t in last if t["status"] != "passed"}
        chosen = [t for t in chosen if t in bad]
    if not chosen:
        raise Refused("no test is selected")
    return chosen


def environment(work: Path) -> dict[str, str]:
    mine = {k: v for k, v in os.environ.items() if not k.startswith("OS_") and k != "PYTHONPATH"}
    mine |= {"TEMPEST_CONFIG_DIR": str(work / "etc"), "TEMPEST_CONFIG": "tempest.conf", "PYTHONHASHSEED": "0"}
    # stestr starts `python -m stestr...` by name
    mine["PATH"] = f"{TOP / '.venv-tempest/bin'}:{mine['PATH']}"
    return mine


def prepare_folder(work: Path) -> None:
    import tempest

    package = Path(tempest.__file__).parent
    (work / "etc").mkdir()
    (work / "etc" / "tempest.conf").write_text("")
    # One worker takes all tests of a class: its set-up is paid for once.
    (work / ".stestr.conf").write_text(
        f"[DEFAULT]\ntest_path={package}/test_discover\ntop_dir={package}\ngroup_regex=([^\\.]*\\.)*\n"
    )
    subprocess.run(stestr(work, "init"), cwd=work, check=False, capture_output=True)


def execute(work: Path, chosen: list[str], workers: int, limit_s: int) -> Path:
    (work / "load.txt").write_text("\n".join(chosen) + "\n")
    stream = work / "run.subunit"
    command = stestr(work, "run", "--subunit", "--concurrency", str(workers), "--load-list", str(work / "load.txt"))
    with stream.open("wb") as out, (work / "run.err").open("wb") as err:
        run = subprocess.Popen(command, cwd=work, stdout=out, stderr=err, env=environment(work), start_new_session=True)
        try:
            if not ended(run, chosen, stream, limit_s):
                print(f"the limit of {limit_s} s is over; what has not run counts as notrun", file=sys.stderr)
                os.killpg(run.pid, signal.SIGTERM)
                run.wait()
        except KeyboardInterrupt:
            os.killpg(run.pid, signal.SIGTERM)
            run.wait()
    return stream


def ended(run: subprocess.Popen[bytes], chosen: list[str], stream: Path, limit_s: float) -> bool:
    """Whether the run ended within its limit; meanwhile a line now and then says how far it is, if there is news."""
    began, told = time.monotonic(), ""
    while True:
        left_s = limit_s - (time.monotonic() - began)
        try:
            run.wait(max(0.0, min(PROGRESS_S, left_s)))
            return True
        except subprocess.TimeoutExpired:
            if left_s <= PROGRESS_S:
                return False
        counts = count(fold(chosen, stream)[0]).get("total", {})
        done = {what: counts.get(what, 0) for what in COLUMNS if what != "notrun"}
        now = f"{sum(done.values())} of {len(chosen)} done, " + ", ".join(f"{number} {what}" for what, number in done.items())
        if now != told:
            print(f"{time.monotonic() - began:5.0f} s: {now}", file=sys.stderr, flush=True)
            told = now


# ------------------------------------------------------------------ the result


def print_result(verdicts: list[Verdict], teardowns: list[str], *, traces: bool) -> str:
    for verdict in verdicts:
        if verdict.status in ("failed", "notrun"):
            print(f"{verdict.status.upper():7} {verdict.name}  {verdict.why[:220]}")
            if traces:
                print("        " + verdict.trace.strip().replace("\n", "\n        "))
    for verdict in verdicts:
        if verdict.status == "skipped":
            print(f"SKIPPED {verdict.name}  {verdict.why[:160]}")
    for line in teardowns:
        print(f"TEARDOWN {line[:220]}")
    table = count(verdicts)
    for service in sorted(table):
        if service != "total":
            print(f"{service:10} " + " ".join(f"{c} {table[service][c]}" for c in COLUMNS))
    last = " ".join(f"{c} {table['total'][c]}" for c in COLUMNS) + f" of {len(verdicts)}"
    print(last)
    return last


def connect(args: argparse.Namespace, own: OwnCloud | None) -> Cloud:
    if own is None:
        return given_cloud(args)
    own.wait_ready()
    if "floating IPs will not be reachable" in own.tail():
        raise Refused("another cloud on this machine holds the external gateway's address: guests could not be logged into; stop it first")
    return Cloud(identity_url(own.url), own.password)


def judge(args: argparse.Namespace, cloud: Cloud, work: Path) -> int:
    """Discover, select, run, fold, print, keep; the exit code."""
    given = dict(pair.split("=", 1) for pair in args.set)
    if args.start:
        given.setdefault("SECURITY_COMPLIANCE", "true")
    if args.hypervisor == "libvirt":
        # guests that can be logged into: the guest image's user, and time for a guest that boots under emulation
        for name, value in (("SSH", "true"), ("SSH_USER", "virga"), ("IMAGE_NAME", "virga-guest"), ("TIMEOUT", "300"),
                            ("SSH_TIMEOUT", "240")):
            given.setdefault(name, value)
    values, made = discover(cloud, work, given, seed=not args.no_seed)
    render(values, work)
    services = [name for name in ("nova", "glance", "neutron", "cinder") if values[f"HAS_{name.upper()}"]]
    print(
        f"cloud: {cloud.auth_url}; offers {', '.join(services)}; hosts {values.get('COMPUTE_NODES', 0)}; "
        f"compute up to {values.get('MAX_MICROVERSION') or '-'}; made here: {', '.join(made) or 'nothing'}",
        flush=True,
    )
    chosen = choose(all_tests(work), args)
    print(f"tests: {len(chosen)}, workers: {args.workers}", flush=True)
    began = time.monotonic()
    stream = execute(work, chosen, args.workers, args.limit)
    took_s = time.monotonic() - began
    verdicts, teardowns = fold(chosen, stream)
    last = print_result(verdicts, teardowns, traces=args.traces)
    print(f"took {took_s:.0f} s; details in {args.out}", file=sys.stderr)
    result = {"line": last, "seconds": round(took_s), "teardowns": teardowns}
    result["tests"] = [v.as_dict() for v in verdicts]
    (args.out / "result.json").write_text(json.dumps(result, indent=1))
    shutil.copy(work / "run.err", args.out / "run.err")
    if (work / "logs").exists():
        shutil.copytree(work / "logs", args.out / "logs", dirs_exist_ok=True)  # requests, and consoles of guests that could not be reached
    if args.report:
        args.report.write_text(report.page(verdicts, took_s, values, args))
        print(f"wrote {args.report}", file=sys.stderr)
    totals = count(verdicts)["total"]
    return 0 if totals["failed"] == 0 and totals["notrun"] == 0 else 1


def main() -> int:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    own: OwnCloud | None = None
    work = Path(tempfile.mkdtemp(prefix="conformance-"))
    try:
        if args.report and (not args.list or args.only or args.skip or args.again):
            raise Refused("a report is written for a whole --list only: no --only, --skip, --again")
        prepare_folder(work)
        if args.show:
            print("\n".join(choose(all_tests(work), args)))
            return 0
        if args.start:
            own = OwnCloud(args.hosts, args.port, args.out, args.hypervisor)
        return judge(args, connect(args, own), work)
    except Refused as refusal:
        print(f"conformance: {refusal}", file=sys.stderr)
        return 2
    finally:
        if own is not None:
            own.stop()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
