# sparsesam-export with TensorRT, the plugin library and all that a build, its proof and its evaluation need.
#
#   docker build -t sparsesam .
#   docker run --rm --gpus all -v $PWD:/work sparsesam build --checkpoint sam_vit_h_4b8939.pth --builder tensorrt --output built
#
# The base brings TensorRT with its headers and Python module, CUDA and a compiler. Its TensorRT is the one that the
# plugin library is compiled for and that engines are built with; it must be 10.13 or later.
#   x86-64, and SBSA (Grace, and Jetson Thor): nvcr.io/nvidia/tensorrt:XX.YY-py3, one name for both architectures
#   Jetson with JetPack 6 (Orin): nvcr.io/nvidia/l4t-tensorrt:rXX.Y.Z-devel, once its TensorRT is that new;
#     torch for it comes from NVIDIA, not from PyPI
ARG BASE=nvcr.io/nvidia/tensorrt:25.10-py3
FROM ${BASE}

# onnxruntime-gpu and onnxruntime are one Python module: never name both. PyPI has onnxruntime-gpu for x86-64 alone; on
# arm64 build with --build-arg EXTRAS=onnxruntime,tensorrt,triton,accuracy,serving
ARG EXTRAS=onnxruntime-gpu,tensorrt,triton,accuracy,serving
# What kernels are compiled for; fewer are faster to build. Lists as CMake has them, separated by semicolons.
ARG MODELS=nano;vit_b;vit_l;vit_h
ARG ELEMENTS=fp16;bf16
ARG CAPABILITIES=8.0;8.6;8.9;9.0;10.0;12.0

# NVIDIA's images pin packages for programs of their own; these pins do not fit ours.
ENV PIP_CONSTRAINT= PIP_NO_CACHE_DIR=1 PATH=/opt/sparsesam/bin:$PATH

RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
# The image's own packages are seen from the environment: the TensorRT module must be that of its library.
RUN python3 -m venv --system-site-packages /opt/sparsesam \
    && pip install 'scikit-build-core>=0.11' 'cmake>=3.22' ninja

COPY . /src
RUN pip install "/src[${EXTRAS}]"
# Once more with the plugin library, in the environment that is there: an isolated one would install torch again.
RUN SPARSESAM_NATIVE=1 TENSORRT_INCLUDE_DIR=${TENSORRT_INCLUDE_DIR:-/usr/include/$(uname -m)-linux-gnu} \
    pip install --no-build-isolation --no-deps --force-reinstall \
        -C cmake.define.SPARSESAM_MODELS="${MODELS}" \
        -C cmake.define.SPARSESAM_ELEMENTS="${ELEMENTS}" \
        -C cmake.define.SPARSESAM_CAPABILITIES="${CAPABILITIES}" \
        /src \
    && sparsesam-export plugin-path

WORKDIR /work
# In place of the image's own entry point, which prints a banner to stdout, where --json has one document.
ENTRYPOINT ["sparsesam-export"]
CMD ["doctor"]
