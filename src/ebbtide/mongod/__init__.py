"""The mongod processes that Ebbtide runs: binary, options, ports, process."""
