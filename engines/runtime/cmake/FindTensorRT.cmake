# TensorRT::runtime: headers, and the full or the lean runtime library.
#
# Looks at TENSORRT_INCLUDE_DIR and TENSORRT_LIBRARY, then under TENSORRT_ROOT (each a CMake or environment variable),
# then in the system. The lean wheel's libnvinfer_lean.so.<major> has no name that a linker finds: pass its path.

set(tensorrt_roots ${TENSORRT_ROOT} $ENV{TENSORRT_ROOT})
find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h HINTS $ENV{TENSORRT_INCLUDE_DIR} ${tensorrt_roots}
          PATH_SUFFIXES include)
if(NOT TENSORRT_LIBRARY AND DEFINED ENV{TENSORRT_LIBRARY})
  set(TENSORRT_LIBRARY $ENV{TENSORRT_LIBRARY} CACHE FILEPATH "TensorRT's runtime library, full or lean")
endif()
find_library(TENSORRT_LIBRARY NAMES nvinfer nvinfer_lean HINTS ${tensorrt_roots} PATH_SUFFIXES lib lib64)

if(NOT TENSORRT_INCLUDE_DIR)
  message(FATAL_ERROR "TensorRT's headers were not found; unpack NVIDIA's TensorRT tar (or install libnvinfer-dev) and "
                      "pass -DTENSORRT_ROOT=DIR or -DTENSORRT_INCLUDE_DIR=DIR, or -DSPARSESAM_CORE_ONLY=ON to build "
                      "without TensorRT.")
endif()
if(NOT TENSORRT_LIBRARY)
  message(FATAL_ERROR "TensorRT's library was not found; pass -DTENSORRT_ROOT=DIR, or -DTENSORRT_LIBRARY=FILE with "
                      "libnvinfer.so or the libnvinfer_lean.so of `pip install tensorrt-lean-cu13-libs`.")
endif()
if(NOT EXISTS ${TENSORRT_LIBRARY})
  message(FATAL_ERROR "TENSORRT_LIBRARY ${TENSORRT_LIBRARY} does not exist; name libnvinfer.so or libnvinfer_lean.so.")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT REQUIRED_VARS TENSORRT_LIBRARY TENSORRT_INCLUDE_DIR)

if(NOT TARGET TensorRT::runtime)
  add_library(TensorRT::runtime UNKNOWN IMPORTED)
  set_target_properties(TensorRT::runtime PROPERTIES IMPORTED_LOCATION ${TENSORRT_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${TENSORRT_INCLUDE_DIR})
  if(TENSORRT_LIBRARY MATCHES "nvinfer_lean")  # it loads version-compatible engines only
    set_target_properties(TensorRT::runtime PROPERTIES INTERFACE_COMPILE_DEFINITIONS SPARSESAM_LEAN_RUNTIME)
  endif()
endif()
