/* Run SparseSAM engines: load a folder made by `sparsesam-export build --builder tensorrt`, encode images, predict
 * masks. C99 and C++; the C++ classes on top of it are in sparsesam/engine.hpp.
 *
 * Threads: an engine may be shared by any number of threads. A context belongs to one thread at a time; make one for
 * each thread. Contexts keep their engine alive, so handles may be destroyed in any order.
 * Streams: `stream` is a cudaStream_t of the engine's device. NULL is CUDA's default stream, on which TensorRT
 * synchronises more than it has to. Order a context's work yourself when you give it several streams: its memory is
 * used by one call after another.
 * The calling thread's current CUDA device is left as it was. */
#ifndef SPARSESAM_RUNTIME_H
#define SPARSESAM_RUNTIME_H

#include "sparsesam/core.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sparsesam_engine sparsesam_engine;
typedef struct sparsesam_context sparsesam_context;

/* What TensorRT has to say. severity: 0 internal error, 1 error, 2 warning, 3 info. Called on the thread whose call
 * caused the message, during that call. It must not throw. */
typedef void (*sparsesam_log)(void* user_data, int32_t severity, const char* message);

typedef struct sparsesam_options {
  size_t struct_size; /* sizeof(sparsesam_options) */
  int32_t device;     /* CUDA device ordinal */
  sparsesam_log log;  /* NULL: only the first error of a failed call is kept, in its message */
  void* log_user_data;
} sparsesam_options;

/* What was loaded. Strings live as long as the engine. */
typedef struct sparsesam_info {
  size_t struct_size;    /* sizeof(sparsesam_info), set by the caller */
  const char* family;    /* "vit_b", "vit_l", "vit_h", "nano" */
  const char* precision; /* "fp32", "fp16", "bf16": of the computation; inputs and outputs are float32 */
  const char* builder_version;
  int32_t batch_min, batch_opt, batch_max; /* images in one sparsesam_encode */
  int64_t interm_shape[5];                 /* SAM-HQ: (num_global, -1 for the batch, 64, 64, C); zeros for SAM */
  int32_t has_decoder;                     /* 1 when the folder holds decoder.engine; predicting needs it */
  int32_t num_masks;                       /* M: 4, SAM-HQ 5; 0 without a decoder */
  int32_t max_prompts;                     /* N in one sparsesam_predict; 0 without a decoder */
  int32_t max_points; /* points and box corners of a prompt, counting the padding point of one without a box */
} sparsesam_info;

/* Load an engine. All refusals come before anything is deserialised or any plugin library is opened.
 *
 * path: the folder, or its manifest.json.
 * options: NULL for device 0 without a log.
 * engine: receives the handle; NULL after a failure. */
SPARSESAM_API sparsesam_status sparsesam_engine_load(const char* path, const sparsesam_options* options,
                                                     sparsesam_engine** engine, sparsesam_error* error);
SPARSESAM_API void sparsesam_engine_destroy(sparsesam_engine* engine); /* NULL is allowed */
SPARSESAM_API sparsesam_status sparsesam_engine_info(const sparsesam_engine* engine, sparsesam_info* info,
                                                     sparsesam_error* error);

/* Create an execution context: device memory for activations, and the image that masks are predicted for. */
SPARSESAM_API sparsesam_status sparsesam_context_create(sparsesam_engine* engine, sparsesam_context** context,
                                                        sparsesam_error* error);
SPARSESAM_API void sparsesam_context_destroy(sparsesam_context* context); /* waits for its work; NULL is allowed */

/* Encode prepared images. Returns as soon as the work is queued on `stream`.
 *
 * images: device, (batch, 3, 1024, 1024) float32, as sparsesam_preprocess writes them.
 * embeddings: device, (batch, 256, 64, 64) float32, written.
 * interm_embeddings: device, (num_global, batch, 64, 64, C) float32, written; NULL exactly when the model is no SAM-HQ.
 */
SPARSESAM_API sparsesam_status sparsesam_encode(sparsesam_context* context, const float* images, int32_t batch,
                                                float* embeddings, float* interm_embeddings, void* stream,
                                                sparsesam_error* error);

/* Prepare and encode one image in host memory, and make it the one that masks are predicted for. Returns when done. */
SPARSESAM_API sparsesam_status sparsesam_encode_image(sparsesam_context* context, const sparsesam_image* image,
                                                      void* stream, sparsesam_error* error);

/* Make an image that was encoded earlier the one that masks are predicted for. The embeddings are copied.
 *
 * embeddings: device, (1, 256, 64, 64) float32.
 * interm_embeddings: device, (num_global, 1, 64, 64, C) float32; NULL exactly when the model is no SAM-HQ.
 * height, width: the image's size before preparation, pixels. */
SPARSESAM_API sparsesam_status sparsesam_use_embeddings(sparsesam_context* context, const float* embeddings,
                                                        const float* interm_embeddings, int32_t height, int32_t width,
                                                        void* stream, sparsesam_error* error);

/* The current image's embeddings in device memory, valid until another image is set or the context is destroyed.
 * interm_embeddings receives NULL when the model is no SAM-HQ; may itself be NULL. */
SPARSESAM_API sparsesam_status sparsesam_embeddings(const sparsesam_context* context, const float** embeddings,
                                                    const float** interm_embeddings, sparsesam_error* error);

/* N prompts on one image, host memory, coordinates in pixels of the image. Each has the same number of points; boxes
 * are given for all or none. */
typedef struct sparsesam_prompts {
  size_t struct_size; /* sizeof(sparsesam_prompts) */
  int32_t num_prompts;
  int32_t num_points;          /* P, of each prompt; 0 when there are boxes alone */
  const float* point_coords;   /* (N, P, 2) x, y */
  const int32_t* point_labels; /* (N, P) 1 inside the object, 0 outside */
  const float* boxes;          /* (N, 4) x0, y0, x1, y1, or NULL */
  const float* mask_input;     /* (N, 256, 256) logits of an earlier answer, or NULL */
} sparsesam_prompts;

/* Where answers go: host memory of the caller, any of it NULL when not wanted. */
typedef struct sparsesam_answer {
  size_t struct_size; /* sizeof(sparsesam_answer) */
  uint8_t* masks;     /* (N, height, width) 1 inside, 0 outside, at the image's size */
  int32_t*
      mask_indices;     /* (N) which of SAM's masks was answered: 0 with a box, else that of 1 to 3 with the best IoU */
  float* iou;           /* (N) the predicted IoU of that mask */
  float* low_res_masks; /* (N, M, 256, 256) logits of all masks */
  float* iou_predictions; /* (N, 4) */
} sparsesam_answer;

/* Predict masks for the context's current image. SAM-HQ's mask is the sum with its HQ mask. Returns when done. */
SPARSESAM_API sparsesam_status sparsesam_predict(sparsesam_context* context, const sparsesam_prompts* prompts,
                                                 const sparsesam_answer* answer, void* stream, sparsesam_error* error);

#ifdef __cplusplus
}
#endif

#endif
