"""The flight recorder: the last seconds of a stream in memory, dumped on a trigger, replayed.

=========================================  =====================================================
:mod:`~mmedge.recording.flight.recorder`   watches a stream
:mod:`~mmedge.recording.flight.ring`       what is kept, bounded in seconds and bytes
:mod:`~mmedge.recording.flight.triggers`   what makes a dump
:mod:`~mmedge.recording.flight.dump`       writes it, one MCAP file
:mod:`~mmedge.recording.flight.reader`     reads it
:mod:`~mmedge.recording.flight.replay`     runs it again and compares, bit for bit
=========================================  =====================================================
"""
