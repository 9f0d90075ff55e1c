"""Read what trainers other than RLlib write, without their frameworks and without running code.

    found = detect.detect(source)           # source: the files of one checkpoint, read by ranges
    found.name, found.step()                # "Lightning 2.6.6", 500
    found.state(how), found.weights()       # all of it; name to what makes the array

A file is known by its content, whatever it is called: torch.save in its two containers, safetensors, npz and
npy, pickles, the zips of Stable-Baselines3 and Keras, HDF5 where h5py is installed. Only what is asked for is
read, where the container allows that. Nothing here touches a disk, a network or a clock. Pure.
"""
