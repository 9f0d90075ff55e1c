"""Write policies as files that other programs read or run, one module per format of networks.

A file of a network is run and compared with the weights before it is written. The libraries are imported when
a file is made.
"""
