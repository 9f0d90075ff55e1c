"""The server that benchmarks measure clients beside: what it takes is what it gives."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import botocore.exceptions
import pytest

from benchmarks.sink import sink
from tests.servers import Server

BODY = bytes(range(256)) * 40_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sink() as running:
        running.bucket = running.new_bucket()
        yield running


def test_an_object_comes_back_whole_and_by_range(server: Server) -> None:
    client, named = server.client(), {"Bucket": server.bucket, "Key": "a folder/ü&é"}
    client.put_object(Body=BODY, **named)
    assert client.get_object(**named)["Body"].read() == BODY
    for asked, expected in {"5-9": BODY[5:10], "10239990-": BODY[-10:], "-3": BODY[-3:]}.items():
        assert client.get_object(Range=f"bytes={asked}", **named)["Body"].read() == expected
    assert client.head_object(**named)["ContentLength"] == len(BODY)


def test_parts_are_put_together_in_their_order(server: Server) -> None:
    client, named = server.client(), {"Bucket": server.bucket, "Key": "parts"}
    upload = client.create_multipart_upload(**named)["UploadId"]
    tags = {
        number: client.upload_part(UploadId=upload, PartNumber=number, Body=body, **named)["ETag"]
        for number, body in ((2, b"second"), (1, BODY))
    }
    parts = [{"PartNumber": number, "ETag": tags[number]} for number in (1, 2)]
    client.complete_multipart_upload(UploadId=upload, MultipartUpload={"Parts": parts}, **named)
    assert server.peek(f"s3://{server.bucket}/parts") == BODY + b"second"
    around = client.get_object(Range=f"bytes={len(BODY) - 2}-{len(BODY) + 2}", **named)["Body"].read()
    assert around == BODY[-2:] + b"sec"


def test_what_is_there_is_not_created_again(server: Server) -> None:
    client, named = server.client(), {"Bucket": server.bucket, "Key": "once"}
    client.put_object(Body=b"first", IfNoneMatch="*", **named)
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        client.put_object(Body=b"second", IfNoneMatch="*", **named)
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert server.peek(f"s3://{server.bucket}/once") == b"first"


def test_a_listing_has_every_key_once_over_its_pages(server: Server) -> None:
    client, bucket = server.client(), server.new_bucket()
    keys = [f"{folder}/{name}" for folder in ("a", "b&", "c d") for name in range(4)]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 5})
    assert [item["Key"] for page in pages for item in page["Contents"]] == keys
    folders = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 2}
    )
    assert [item["Prefix"] for page in folders for item in page["CommonPrefixes"]] == ["a/", "b&/", "c d/"]
    client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys[1:]]})
    assert server.sizes(f"s3://{bucket}/a") == {"0": 1}


def test_a_body_framed_twice_is_freed_of_both_frames(server: Server) -> None:
    """As pyarrow sends it: chunks of S3's own, in chunks of HTTP."""
    inner = b"4;sig=x\r\nabcd\r\n3\r\nefg\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    headers = {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": "7",
        "Transfer-Encoding": "chunked",
    }
    connection = http.client.HTTPConnection(server.endpoint.partition("://")[2])
    try:
        pieces = [inner[:11], inner[11:12], inner[12:]]
        connection.request("PUT", f"/{server.bucket}/framed", pieces, headers, encode_chunked=True)
        reply = connection.getresponse()
        reply.read()
        assert reply.status == 200
        connection.request("GET", f"/{server.bucket}/framed")  # on the same connection: nothing is left over
        assert connection.getresponse().read() == b"abcdefg"
    finally:
        connection.close()
