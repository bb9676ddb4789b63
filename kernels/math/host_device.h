// LLMTRAIN_HD marks an inline function that both the host compiler and a device compiler translate.
#pragma once

#if defined(__CUDACC__)
#define LLMTRAIN_HD __host__ __device__
#else
#define LLMTRAIN_HD
#endif
