"""Who may be taken for whom, by real handshakes; and what the gateway itself trusts."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from aioapiqueue_run.gateway.authority import Authority
from aioapiqueue_run.gateway.trust import context_for, trusted_by_user

HOST = "ec2.eu-west-1.amazonaws.com"


def handshake(server, client, name):
    """Do a handshake in memory; raises what the client does not like."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return theirs


@pytest.fixture(scope="module")
def authority():
    """Give one for AWS's main domain."""
    return Authority(["amazonaws.com", "api.aws"])


@pytest.fixture
def client(authority):
    """Give a context that is as strict as Python can be, and trusts it."""
    context = ssl.create_default_context(cadata=authority.pem)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


@pytest.mark.parametrize("host", [HOST, "some-bucket.s3.amazonaws.com", f"{'x' * 59}.s3.api.aws"])
def test_host_of_aws_is_certified(authority, client, host):
    """Strictly verified, by the name of the host, for HTTP/1.1 only."""
    client.set_alpn_protocols(["h2", "http/1.1"])
    done = handshake(authority.context_for(host), client, host)
    assert done.selected_alpn_protocol() == "http/1.1"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(authority.context_for(host), client, f"not-{host}")


@pytest.mark.parametrize("host", ["example.com", "amazonaws.com.example.com", "api.github.com"])
def test_other_names_are_refused(authority, client, host):
    """The certificate of the authority does not allow them, whatever its key signs."""
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(authority.context_for(host), client, host)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_addresses_are_refused(authority, client, address, monkeypatch):
    """An address is no name; it is excluded by itself."""
    name = x509.IPAddress(ipaddress.ip_address(address))
    monkeypatch.setattr(x509, "DNSName", lambda _: name)
    context = authority.context_for.__wrapped__(address)  # it is not kept
    monkeypatch.undo()
    with pytest.raises(ssl.SSLCertVerificationError, match="excluded subtree violation"):
        handshake(context, client, address)


def test_authority_signs_no_other(authority):
    """It is good from an hour ago, for clocks that are behind, for 30 days."""
    certificate = x509.load_pem_x509_certificate(authority.pem.encode())
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life.total_seconds() == (30 * 24 + 1) * 3600
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    names = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert names.critical
    assert len(list(names.value.permitted_subtrees)) == 2


def test_no_usable_key_is_in_a_file(tmp_path, monkeypatch):
    """What is written is encrypted, for this user alone, and gone at once."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written = []

    def note(event, arguments):
        path = Path(arguments[0]) if event == "os.remove" else tmp_path
        if path.parent == tmp_path:
            written.append((stat.S_IMODE(path.stat().st_mode), path.read_bytes()))

    sys.addaudithook(note)
    Authority(["amazonaws.com"]).context_for(HOST)
    assert list(tmp_path.iterdir()) == []
    ((mode, content),) = written
    assert os.name != "posix" or mode == 0o600
    assert content.count(b"PRIVATE KEY") == content.count(b"ENCRYPTED PRIVATE KEY") == 2
    with pytest.raises(TypeError, match="encrypted"):
        serialization.load_pem_private_key(content, None)


def test_two_runs_do_not_trust_each_other(authority, client):
    """Each has a key of its own."""
    other = Authority(["amazonaws.com"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(other.context_for(HOST), client, HOST)


# What the gateway trusts.


@pytest.fixture
def companies(tmp_path):
    """Give two authorities, each in a file with remarks."""
    found = []
    for name in ("first", "second"):
        company = trustme.CA(organization_name=name)
        file = tmp_path / f"{name}.pem"
        file.write_text(f"# {name}\n{company.cert_pem.bytes().decode()}\n# end\n")
        found.append((company, file))
    return found


def server_of(company):
    """Return what proves to be AWS's host, by an authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    company.issue_cert(HOST).configure_cert(context)
    return context


@pytest.mark.parametrize(
    "variable",
    [
        "AWS_CA_BUNDLE",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
    ],
)
def test_users_bundles_are_trusted(companies, variable):
    """Whatever variable names one; and what none names is not."""
    (first, file), (second, _) = companies
    client = context_for(trusted_by_user({variable: str(file)}))
    handshake(server_of(first), client, HOST)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_of(second), client, HOST)


def test_folder_of_certificates(companies, tmp_path):
    """The variables of some programs may name one."""
    client = context_for(trusted_by_user({"REQUESTS_CA_BUNDLE": str(tmp_path)}))
    for company, _ in companies:
        handshake(server_of(company), client, HOST)


def test_bundle_of_a_profile(companies, tmp_path):
    """What ~/.aws/config names, which the variable that programs get would replace."""
    (first, file), _ = companies
    config = tmp_path / "config"
    config.write_text(f"[default]\nregion = x\n[profile work]\nca_bundle = {file}\n")
    environ = {"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "work"}
    handshake(server_of(first), context_for(trusted_by_user(environ)), HOST)
    del environ["AWS_PROFILE"]
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_of(first), context_for(trusted_by_user(environ)), HOST)
    config.write_text("no configuration\n")
    trusted_by_user(environ)


def test_bundle_of_a_profile_in_two_files(companies, tmp_path):
    """What ~/.aws/credentials names counts, as for botocore; a section there is a bare name."""
    (first, file), (second, other) = companies
    config, credentials = tmp_path / "config", tmp_path / "credentials"
    config.write_text(f"[profile work]\nca_bundle = {file}\n")
    credentials.write_text(f"[work]\nca_bundle = {other}\n")
    environ = {
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_PROFILE": "work",
    }
    handshake(server_of(second), context_for(trusted_by_user(environ)), HOST)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_of(first), context_for(trusted_by_user(environ)), HOST)


def test_systems_certificates_are_trusted():
    """Without a variable; a company's besides does not take them away."""
    system = trusted_by_user({})
    assert system.count("BEGIN CERTIFICATE") > 50


def test_every_system_file_is_trusted(companies, monkeypatch):
    """An isolated program sees ours in the place of each, whatever a variable names."""
    (first, file), (second, other) = companies
    monkeypatch.setattr("aioapiqueue_run.gateway.trust.SYSTEM_BUNDLES", (str(file),))
    monkeypatch.setenv("SSL_CERT_FILE", str(other))  # OpenSSL's own default would follow it
    text = trusted_by_user({"SSL_CERT_FILE": str(other)})
    for company in (first, second):
        handshake(server_of(company), context_for(text), HOST)


def test_missing_bundle_is_named():
    """It would be an error of each program, too."""
    with pytest.raises(ValueError, match=r"^AWS_CA_BUNDLE: /nowhere\.pem: No such file"):
        trusted_by_user({"AWS_CA_BUNDLE": "/nowhere.pem"})


def test_missing_extra_file_of_node():
    """Node.js warns of it and goes on; so does the gateway, in silence."""
    assert trusted_by_user({"NODE_EXTRA_CA_CERTS": "/nowhere.pem"}) == trusted_by_user({})


def test_no_certificates_at_all(tmp_path, monkeypatch):
    """Nothing could be verified: there is a remedy."""
    monkeypatch.setattr("os.path.isfile", lambda _: False)
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(ValueError, match="install ca-certificates"):
        trusted_by_user({"SSL_CERT_FILE": str(empty)})


@pytest.fixture
def serving(authority):
    """Listen with a certificate for the name that a client asks for; return the port."""

    def by_name(sock, name, _):
        sock.context = authority.context_for(name)

    context = authority.context_for(HOST)
    context.sni_callback = by_name
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                side = context.wrap_socket(connection, server_side=True)
                side.recv(4096)
                side.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                side.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    context.sni_callback = None


def curl(port, name, bundle):
    """Return the command by which curl asks a server of some name."""
    to = f"{name}:443:127.0.0.1:{port}"
    return ["curl", "-sS", "--cacert", bundle, "--connect-to", to, f"https://{name}/"]


def node(port, name, bundle):
    """Return the same for Node.js."""
    program = f"""
const options = {{ host: '127.0.0.1', port: {port}, servername: '{name}',
  headers: {{ host: '{name}' }}, ca: require('fs').readFileSync('{bundle}') }};
require('https').get(options, (answer) => answer.pipe(process.stdout)).once('error', (error) => {{
  console.error(error.message); process.exit(1); }});
"""
    return ["node", "-e", program]


@pytest.mark.real
@pytest.mark.parametrize(
    ("program", "refusal"),
    [(curl, b"permitted subtree violation"), (node, b"permitted subtree violation")],
)
def test_programs_refuse_other_names(serving, authority, tmp_path, program, refusal):
    """They take the authority for a host of AWS, and refuse it for any other."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text(authority.pem)
    if shutil.which(program(0, "", "")[0]) is None:
        pytest.skip(f"needs {program.__name__}")
    for name, right in ((HOST, True), ("example.com", False)):
        command = program(serving, name, bundle)
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert (done.returncode == 0) == right, done.stderr
        assert (done.stdout == b"ok") == right
        assert right or refusal in done.stderr
