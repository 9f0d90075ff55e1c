"""Networks as files that other programs run, one module per format, each checked before it is handed out.

The libraries are imported when a file is made.
"""
