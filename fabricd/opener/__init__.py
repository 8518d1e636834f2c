"""The one thing that a daemon without root can't do: open sockets in other network namespaces.

setns(2) takes CAP_SYS_ADMIN, which is nearly root. So a program of its own has it, `fabricd-netns`,
that knows nothing else, speaks to the daemon alone, and hands it the sockets. The standard library
alone: what is privileged should be read in one sitting.
"""
