"""Read what RLlib wrote, from Ray 1.0 to the newest, with numpy alone and without running its code.

    checkpoint = foreign.open(files, read)  # files: path to size in bytes; read: path to bytes
    checkpoint.kind, checkpoint.version, checkpoint.ray_version, checkpoint.policy_ids
    checkpoint.weights("pol1")              # dict of arrays, named as in the live algorithm
    checkpoint.state(), checkpoint.policy("pol1"), checkpoint.notes

Opening reads a small JSON file at most; a policy is fetched when it is asked for. Everything here works on
the bytes that it is given: no files, no network, no clock, no randomness. Pure.
"""
