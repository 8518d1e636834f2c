"""What is known of a node's pods on its disk: which are attached, and which addresses they hold.

Nothing here knows the kernel, or who asks.
"""
