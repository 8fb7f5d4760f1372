"""``python -m oracles hunt``: all laws with new seeds, one run after another.

A run judges each law, on each layer it speaks of, with one seed. It has processes of its own, so
that whatever a law does to torch ends with them; they judge as the main job does. Runs go
side by side on this machine, or on the machines of a Dask scheduler.

    command   the options, the loop, what the user sees
    records   what is kept of a run, as lines of JSON
    drive     one run: its processes, watched
    child     the process in which laws are judged
    places    where runs go: this machine, or the workers of a scheduler
    summary   violations by law and kind of fact; figures
"""
