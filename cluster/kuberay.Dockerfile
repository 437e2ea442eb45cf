# The image of cluster/kuberay.yaml, built in a checkout of raysweep:
#
#     docker build --file cluster/kuberay.Dockerfile --tag <your-registry>/raysweep:0.1.0 .
FROM rayproject/ray:2.60.0-py311
COPY --chown=ray:users . /opt/raysweep
RUN pip install --no-cache-dir --constraint /opt/raysweep/constraints.txt 'ray[default]==2.60.0' /opt/raysweep
# PyTorch brings CUDA; the node's driver is all that it needs from outside.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
