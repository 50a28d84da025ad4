"""A ROS 2 lifecycle node around a stream of mmedge: topics in, results and diagnostics out.

============================  ====================================================================
:mod:`~mmedge_ros.node`       the node: its transitions, and who runs in which thread
:mod:`~mmedge_ros.parameters` its parameters
:mod:`~mmedge_ros.inlet`      one modality's subscription: messages are counted, converted, pushed
:mod:`~mmedge_ros.outlet`     results as messages of std_msgs
:mod:`~mmedge_ros.status`     a stream's health as diagnostics
:mod:`~mmedge_ros.main`       ``mmedge-ros``, ``ros2 run mmedge_ros stream_node``
============================  ====================================================================

How messages become values is in :mod:`mmedge.recording.ros`, which bags go through as well.
"""
