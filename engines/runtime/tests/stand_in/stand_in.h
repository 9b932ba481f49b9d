// How a test drives the stand-ins; C, so that Python can.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Compute an engine's outputs. A tensor's shape is `ranks[i]` numbers from `shapes[8 * i]`; an output's is the
// engine's, -1 where dynamic. Returns 0, or anything else for a failing kernel.
typedef int32_t (*stand_in_kernel)(void* user_data, int32_t count, const char* const* names, float* const* data,
                                   const int64_t* shapes, const int32_t* ranks);

__attribute__((visibility("default"))) void stand_in_set_kernel(stand_in_kernel kernel, void* user_data);

// GPUs in this machine, of compute capability 8.9; -1 for no driver.
__attribute__((visibility("default"))) void stand_in_set_devices(int32_t count);

// The largest allocation that succeeds, in bytes.
__attribute__((visibility("default"))) void stand_in_set_memory(int64_t bytes);

// Device and pinned allocations that were not freed.
__attribute__((visibility("default"))) int32_t stand_in_allocations(void);

#ifdef __cplusplus
}
#endif
