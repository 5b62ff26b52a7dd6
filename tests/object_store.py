"""An object store on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def served_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The query of URLs of a bucket on a server of this machine."""
    moto = pytest.importorskip("moto.server", reason="moto, a server for tests of S3, is not installed")
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="photos")
    yield f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()
