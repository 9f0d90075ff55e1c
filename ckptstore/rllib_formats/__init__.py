"""What RLlib wrote and reads, 0.1 to 2.1, with numpy alone and without running code.

    checkpoint = foreign.open(files, read)   # files: path to size in bytes; read: path to bytes
    checkpoint.kind, checkpoint.version, checkpoint.ray_version, checkpoint.policy_ids
    checkpoint.weights("pol1")               # dict of arrays, the names of the live algorithm
    checkpoint.state(), checkpoint.policy("pol1"), checkpoint.notes

Opening reads a small JSON file at most; each policy is fetched when it is asked for. Pure.
"""
