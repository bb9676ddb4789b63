# Spack recipe: put this folder into a repository of yours as packages/llmtrain/ and give `url` or `git` the place where you keep the sources.
from spack.package import *


class Llmtrain(CMakePackage, CudaPackage):
    """Trains and fine-tunes Llama, Mistral, Qwen and Phi models on clusters: ZeRO-3 under MPI, in C++."""

    license("Apache-2.0")
    maintainers()

    # `spack dev-build llmtrain@develop` in a checkout, or: spack develop --path CHECKOUT llmtrain@develop
    version("develop")
    version("0.1.0")

    variant("nccl", default=True, when="+cuda", description="NCCL communicator")
    variant("cudnn", default=True, when="+cuda", description="attention through cuDNN")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("mpi@3:")
    depends_on("hdf5@1.10:~mpi")
    depends_on("boost@1.74:+program_options+context")
    depends_on("onednn@2.6:2")
    depends_on("highway@1.0.3:")
    depends_on("yaml-cpp@0.7:")
    depends_on("nlohmann-json@3.11:")
    depends_on("simdjson@3:")
    depends_on("utf8proc@2.6:")
    depends_on("xxhash@0.8:")
    depends_on("cairo@1.16:")
    depends_on("googletest@1.12:", type=("build", "test"))

    with when("+cuda"):
        depends_on("cuda@13:")
        # Kernels need sm_80 or newer.
        for arch in ("none", "10", "20", "30", "35", "50", "52", "60", "61", "62", "70", "72", "75"):
            conflicts(f"cuda_arch={arch}", msg="set cuda_arch to 80, 90 or newer")
    depends_on("nccl@2.28:", when="+nccl")
    depends_on("cudnn@9:", when="+cudnn")

    def cmake_args(self):
        args = [
            self.define_from_variant("LLMTRAIN_ENABLE_CUDA", "cuda"),
            self.define("LLMTRAIN_ENABLE_NCCL", self.spec.satisfies("+nccl")),
            self.define("LLMTRAIN_ENABLE_CUDNN", self.spec.satisfies("+cudnn")),
            self.define("LLMTRAIN_TESTS", self.run_tests),
        ]
        if self.spec.satisfies("+cuda"):
            args.append(self.define("CMAKE_CUDA_ARCHITECTURES", self.spec.variants["cuda_arch"].value))
        if self.spec.satisfies("+nccl"):
            args.append(self.define("NCCL_ROOT", self.spec["nccl"].prefix))
        if self.spec.satisfies("+cudnn"):
            args.append(self.define("CUDNN_ROOT", self.spec["cudnn"].prefix))
        return args

    def check(self):
        with working_dir(self.build_directory):
            ctest("-LE", "slow|slurm|fuzz|e2e|gpu")
