"""The cloud cluster's own network: Calico's IPPools, and what a node has learned of the edges.

For fabricctl alone, on nodes where neither fabricd nor charon run. Knows how Calico stores
things and how Linux shows them; nothing of tunnels.
"""
