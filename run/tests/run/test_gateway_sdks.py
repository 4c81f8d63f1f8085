"""Other SDKs than Python's, and waits of 400 seconds: what `nox -s slow` installs for it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from aioapiqueue_run.gateway.authority import Authority
from tests.helpers.aws_programs import BOTO, FORM, HOST, assert_paced, calls_of
from tests.helpers.npm import installed
from tests.helpers.signed_aws import Answered

pytestmark = [pytest.mark.slow, pytest.mark.real]

GO_SOURCE = Path("/usr/share/gocode/src/github.com/aws/aws-sdk-go-v2")
AWS_CLI = Path("/usr/bin/aws")  # Debian's; another one may come before it on PATH

GO = """
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

func main() {
	number, _ := strconv.Atoi(os.Args[1])
	settings, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		panic(err)
	}
	client := ec2.NewFromConfig(settings)
	var all sync.WaitGroup
	var failed sync.Once
	code := 0
	for i := 0; i < number; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			_, err := client.DescribeVolumes(context.Background(), &ec2.DescribeVolumesInput{})
			if err != nil {
				failed.Do(func() { fmt.Fprintln(os.Stderr, err); code = 1 })
			}
		}()
	}
	all.Wait()
	os.Exit(code)
}
"""
GO_TLS = """
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

func main() {
	pem, _ := os.ReadFile(os.Args[1])
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	settings := &tls.Config{RootCAs: pool, ServerName: os.Args[3]}
	if _, err := tls.Dial("tcp", os.Args[2], settings); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
"""
NODE = """
const { EC2Client, DescribeVolumesCommand } = require('@aws-sdk/client-ec2');
const client = new EC2Client({});
const calls = Array.from({ length: Number(process.argv[2]) },
  () => client.send(new DescribeVolumesCommand({})));
Promise.all(calls).then(
  () => process.exit(0), (error) => { console.error(error); process.exit(1); });
"""


@pytest.fixture(scope="module")
def go_program(tmp_path_factory):
    """Build a program with the SDK for Go v2, as Debian packages it."""
    return built(GO, tmp_path_factory.mktemp("go"))


def built(source, folder):
    """Build a program in Go."""
    if shutil.which("go") is None or not GO_SOURCE.exists():
        pytest.skip("needs golang-go and golang-github-aws-aws-sdk-go-v2-dev")
    (folder / "main.go").write_text(source)
    subprocess.run(
        [shutil.which("go"), "build", "-o", str(folder / "calls"), str(folder / "main.go")],
        env=os.environ
        | {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(folder / "cache")},
        check=True,
        timeout=600,
    )
    shutil.rmtree(folder / "cache")
    return folder / "calls"


@pytest.fixture(scope="module")
def node_program(tmp_path_factory):
    """Install the SDK for JavaScript v3, and write a program with it."""
    if shutil.which("npm") is None:
        pytest.skip("needs Node.js and npm")
    folder = installed(tmp_path_factory.mktemp("node"), "@aws-sdk/client-ec2")
    (folder / "calls.js").write_text(NODE)
    return folder / "calls.js"


@pytest.fixture
def programs(run, python, go_program, node_program):
    """Give the command lines of boto3 without our hook, of Go, Node and the CLI, 5 calls each."""
    boto = run.folder / "boto.py"
    boto.write_text(BOTO)
    cli = f"env -u PYTHONPATH {AWS_CLI} ec2 describe-volumes"
    return [f"{python} -I {boto} 5", f"{go_program} 5", f"node {node_program} 5", *[cli] * 5]


def assert_all(ended, figures, network, number):
    """All calls went through, each once, at the limit, with a right signature."""
    assert ended.code == 0, ended.err
    assert_paced(network.aws, number)
    assert calls_of(figures) == {"ec2.DescribeVolumes": number}


@pytest.mark.parametrize("option", ["--any", "--isolate"])
def test_sdk_for_go(paced, network, go_program, option):
    """Version 2, 20 calls at once."""
    assert_all(*paced(go_program, "20", options=(option,)), network, 20)


@pytest.mark.parametrize("option", ["--any", "--isolate"])
def test_sdk_for_javascript(paced, network, node_program, option):
    """Version 3, 20 calls at once."""
    assert_all(*paced("node", node_program, "20", options=(option,)), network, 20)


@pytest.mark.skipif(not AWS_CLI.exists(), reason="needs Debian's awscli")
@pytest.mark.parametrize("hook", ["", "env -u PYTHONPATH "])
def test_aws_cli(paced, network, run, hook):
    """Version 2 as Debian has it, 20 at once at 2 a second: by the hook, and by the gateway."""
    script = run.folder / "many.sh"
    script.write_text(
        f"for i in $(seq 20); do {hook}{AWS_CLI} ec2 describe-volumes > /dev/null & done\n"
        "for one in $(jobs -p); do wait $one || exit 1; done\n"
    )
    ended, figures = paced("bash", script, limit="ec2=1/s", within=300)
    assert ended.code == 0, ended.err
    assert_paced(network.aws, 20, 1.0)
    assert calls_of(figures) == {"ec2.DescribeVolumes": 20}
    seen = figures["gateway"]
    assert (seen["calls"], seen["asked_before"]) == ((20, 0) if hook else (0, 20))


@pytest.mark.skipif(not AWS_CLI.exists(), reason="needs Debian's awscli")
def test_waits_of_400_seconds(paced, network, run, programs):
    """Five calls each of boto3, Go, Node and the CLI, one every 20 s: none fails or is too old.

    All go through the gateway; their signatures are made before they wait.
    """
    script = run.folder / "long.sh"
    started = "".join(f"{one} > /dev/null &\n" for one in programs)
    script.write_text(
        f"{started}code=0; for one in $(jobs -p); do wait $one || code=1; done; exit $code\n"
    )
    ended, figures = paced("bash", script, limit="ec2=1 per 20s", within=600)
    assert ended.code == 0, ended.err
    times = sorted(one.at for one in network.aws.arrivals)
    assert len(times) == 20
    assert times[-1] - times[0] >= 0.99 * 380
    assert not network.aws.wrong
    assert max(one.age for one in network.aws.arrivals) <= 290
    assert calls_of(figures) == {"ec2.DescribeVolumes": 20}
    assert figures["gateway"]["calls"] == 20
    longest = max(one["waits"]["max"] for one in figures["figures"])
    assert longest > 100


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_fetch_of_node_waits(paced, network, run):
    """It accepts interim responses: one comes in 20 s, and three in a minute."""
    program = run.folder / "fetch.js"
    program.write_text(f"""
const form = {{ method: 'POST', body: new URLSearchParams('{FORM}') }};
const call = () => fetch('https://{HOST}/', form)
  .then((answer) => answer.text().then(() => answer.status));
Promise.all([call(), call(), call()]).then((all) => console.log(all.join(' ')));
""")
    ended, figures = paced("node", program, limit="ec2=1 per 30s", within=120)
    assert (ended.code, ended.out) == (0, b"200 200 200\n"), ended.err
    assert calls_of(figures) == {"ec2.DescribeVolumes": 3}


LLM = "https://llm.example.test"
LLM_SDKS = f"""
const OpenAI = require('openai').default;
const Anthropic = require('@anthropic-ai/sdk').default;
const undici = require('undici');
const options = {{ apiKey: 'none', maxRetries: 0, timeout: 600000 }};
const openai = new OpenAI({{ ...options, baseURL: '{LLM}/v1' }});
const anthropic = new Anthropic({{ ...options, baseURL: '{LLM}' }});
const messages = [{{ role: 'user', content: 'hi' }}];
const post = {{ method: 'POST', body: '{{}}' }};
Promise.all([
  anthropic.messages.create({{ model: 'm', max_tokens: 1, messages }}).then((one) => one.id),
  openai.chat.completions.create({{ model: 'm', messages }}).then((one) => one.id),
  undici.request('{LLM}/plain', post).then((one) => one.body.json()).then((one) => one.id),
]).then((all) => console.log(all.join(' ')));
"""
LLM_PYTHON = f"""
import httpx, requests
url = "{LLM}/python"
print(requests.post(url, json={{}}).json()["id"])
print(httpx.post(url, json={{}}, timeout=25).json()["id"])
"""


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js and npm")
def test_sdks_of_llms_wait(paced, network, tmp_path, python):
    """OpenAI's and Anthropic's of npm, undici, and clients in Python, for up to two minutes."""
    network.aws.answer = lambda _: Answered(
        200, b'{"id": "got"}', (("Content-Type", "application/json"),)
    )
    installed(tmp_path, "openai", "@anthropic-ai/sdk", "undici@6")
    (tmp_path / "llm.js").write_text(LLM_SDKS)
    (tmp_path / "llm.py").write_text(LLM_PYTHON)
    both = f"node {tmp_path}/llm.js & {python} {tmp_path}/llm.py; code=$?; wait $! && exit $code"
    ended, figures = paced("sh", "-c", both, limit=f"{LLM}=1 per 30s", within=240)
    assert (ended.code, ended.out.split()) == (0, [b"got"] * 5), ended.err
    assert calls_of(figures) == {f"{LLM}.POST": 5}


def test_go_refuses_other_names(tmp_path):
    """It takes the authority for a host of AWS, and refuses it for any other."""
    program = built(GO_TLS, tmp_path)
    authority = Authority(["amazonaws.com"])
    bundle = tmp_path / "ca.pem"
    bundle.write_text(authority.pem)
    for name, right in (("ec2.us-east-1.amazonaws.com", True), ("example.com", False)):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            with subprocess.Popen(
                [program, bundle, address, name], stdout=subprocess.PIPE
            ) as process:
                connection, _ = listener.accept()
                with contextlib.suppress(OSError), connection:
                    authority.context_for(name).wrap_socket(connection, server_side=True).close()
                out, _ = process.communicate(timeout=30)
        assert (process.returncode == 0) == right, out
        assert right or b"is not permitted by any constraint" in out
