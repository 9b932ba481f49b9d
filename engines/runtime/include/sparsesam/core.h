/* What needs neither TensorRT nor a GPU: status, versions, the check of an engine folder, SAM's image preparation and
 * mask upscaling. Everything here is part of `sparsesam::core` and of `sparsesam::runtime`.
 *
 * C99 and C++. No function throws, keeps state between calls or prints; every function may be called from any number of
 * threads at once. Structures only ever grow at their end: `struct_size` is what the caller was compiled with. */
#ifndef SPARSESAM_CORE_H
#define SPARSESAM_CORE_H

#include <stddef.h>
#include <stdint.h>

#define SPARSESAM_VERSION_MAJOR 0
#define SPARSESAM_VERSION_MINOR 1
#define SPARSESAM_VERSION_PATCH 0

#ifdef _WIN32
#define SPARSESAM_API
#else
#define SPARSESAM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Side of the encoder's square input and of the decoder's square masks, pixels. */
enum { SPARSESAM_IMAGE_SIZE = 1024, SPARSESAM_LOW_RES = 256 };

/* What a call came to; the numbers are the exit codes of the commands. */
typedef enum sparsesam_status {
  SPARSESAM_OK = 0,
  SPARSESAM_CHECK_FAILED = 1, /* a bad build; folder, runtime and GPU do not belong together; the engine does not run */
  SPARSESAM_INVALID_INPUT = 2, /* an argument or a file is unusable */
  SPARSESAM_ENVIRONMENT = 3    /* this machine lacks something: driver, GPU, memory, a library */
} sparsesam_status;

enum { SPARSESAM_MESSAGE_SIZE = 2048 };

/* Why a call failed: one sentence with the offending value and the remedy, UTF-8, cut to fit; empty after success. */
typedef struct sparsesam_error {
  char message[SPARSESAM_MESSAGE_SIZE];
} sparsesam_error;

/* The library's version, "0.1.0": compare with SPARSESAM_VERSION_* to find a header of another release. */
SPARSESAM_API const char* sparsesam_version(void);

/* Check a folder made by `sparsesam-export build` without loading anything: manifest, parity, builder, the files' sizes
 * and SHA-256, and the machine it is to run on as far as it is named. A build whose manifest says that it failed its
 * parity check is refused; one that was not checked is accepted.
 *
 * path: the folder or its manifest.json.
 * tensorrt_version: "10.13.0.35", or NULL to leave the version unchecked.
 * compute_capability: the GPU's, "SM89", or NULL to leave it unchecked.
 * error: receives the message; may be NULL, here as everywhere. */
SPARSESAM_API sparsesam_status sparsesam_check_folder(const char* path, const char* tensorrt_version,
                                                      const char* compute_capability, sparsesam_error* error);

/* An RGB image in host memory. */
typedef struct sparsesam_image {
  const uint8_t* data; /* (height, width, 3) */
  int32_t height;
  int32_t width;
  size_t row_stride; /* bytes from one row to the next; 0 means 3 * width */
} sparsesam_image;

/* Prepare an image as SAM does, to the bit: longer side scaled to 1024 as Pillow scales 8-bit images (bilinear with
 * antialiasing, fixed point), normalised, zero-padded right and below.
 *
 * tensor: host, (3, 1024, 1024) float32, written.
 * input_height, input_width: size of the image inside the tensor, pixels; may be NULL. */
SPARSESAM_API sparsesam_status sparsesam_preprocess(const sparsesam_image* image, float* tensor, int32_t* input_height,
                                                    int32_t* input_width, sparsesam_error* error);

/* Scale one low-resolution mask to the image's size as SAM does: bilinear to 1024x1024, padding cut off, bilinear to
 * the image's size. A mask is where the result is above 0.
 *
 * low_res_mask: host, (256, 256) float32 logits.
 * height, width: the image's size, pixels.
 * logits: host, (height, width) float32, written. */
SPARSESAM_API sparsesam_status sparsesam_upscale_mask(const float* low_res_mask, int32_t height, int32_t width,
                                                      float* logits, sparsesam_error* error);

#ifdef __cplusplus
}
#endif

#endif
