"""Scans with known truth: objects, probes and trajectories, put through the one forward model of the package.

`ptycho.simulation.simulate.simulate` makes a scan from a `ptycho.config.SimulationConfig`; the parts are
plain functions of numpy arrays, and their randomness is a generator passed in.
"""
