"""Serves one policy of a checkpoint over HTTP, with onnxruntime and no Ray.

    python examples/serve_policy.py s3://bucket/runs/ppo --policy pol1 --port 8000
    curl -d '{"obs": [[0.1, 0.2, 0.3, 0.4]]}' http://127.0.0.1:8000

The checkpoint may be one that any RLlib since 2.0 wrote, or a store, whose newest one is served. A request
has a batch of observations; the reply has the greedy actions and all that the network gives. The states of an
LSTM come back as ``state_out_...``: send them as ``state_in_...`` with the next observation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import UnreadableFormat


def load(url: str, policy_id: str | None) -> onnxruntime.InferenceSession:
    """The policy as a session; it was compared with its weights when this returns."""
    try:
        checkpoint: Checkpoint | None = Checkpoint.open(url)
    except UnreadableFormat:
        checkpoint = CheckpointStore(url, create=False).latest()
    if checkpoint is None:
        raise SystemExit(f"{url} holds no checkpoint yet")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "policy.onnx")
        checkpoint.export(path, policy_id)
        return onnxruntime.InferenceSession(path.read_bytes())


def act(session: onnxruntime.InferenceSession, request: dict[str, Any]) -> dict[str, Any]:
    """What the network makes of the inputs in `request`, and the best action for each observation."""
    given = {name: np.asarray(value, np.float32) for name, value in request.items()}
    for state in session.get_inputs()[1:]:  # an episode starts with zeros
        given.setdefault(state.name, np.zeros((len(given["obs"]), state.shape[1]), np.float32))
    outputs = [item.name for item in session.get_outputs()]
    reply = dict(zip(outputs, session.run(outputs, given), strict=True))
    told = session.get_modelmeta().custom_metadata_map["action_distribution"]
    first = reply[outputs[0]]  # logits, Q values, or means and deviations
    if told == "Categorical" or outputs[0] == "qf_preds":
        reply["action"] = first.argmax(axis=1)
    elif told == "DiagGaussian":
        reply["action"] = np.split(first, 2, axis=1)[0]
    return {name: value.tolist() for name, value in reply.items()}


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("checkpoint", help="the path or URL of a checkpoint, or of a store")
    parser.add_argument("--policy", help="may be left out if there is one only")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    session = load(arguments.checkpoint, arguments.policy)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, reply = 200, act(session, json.loads(body))
            except Exception as error:  # noqa: BLE001  # the client's mistake, told to the client
                status, reply = 400, {"error": str(error)}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
    print(f"serving on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
