// C++ classes over the C interface; header only, so that no C++ ABI crosses the library's boundary.
//
//   auto engine = sparsesam::Engine::load("engines/built/vit_h");
//   auto context = engine.create_context();
//   context.encode_image({pixels, height, width, 0});
//   auto masks = context.predict(sparsesam::Prompts::box(305, 15, 364, 71));
#ifndef SPARSESAM_ENGINE_HPP
#define SPARSESAM_ENGINE_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "sparsesam/runtime.h"

namespace sparsesam {

// A failed call: what() is one sentence with the remedy.
class Error : public std::runtime_error {
 public:
  Error(sparsesam_status status, const char* message) : std::runtime_error(message), status_(status) {}
  [[nodiscard]] sparsesam_status status() const noexcept { return status_; }

 private:
  sparsesam_status status_;
};

namespace detail {
template <typename Function, typename... Arguments>
void call(Function function, Arguments... arguments) {
  sparsesam_error error{};
  if (const sparsesam_status status = function(arguments..., &error); status != SPARSESAM_OK) {
    throw Error(status, error.message);
  }
}
}  // namespace detail

// Prompts on one image; see sparsesam_prompts. All have the same number of points, and boxes all or none.
struct Prompts {
  int32_t num_prompts = 0;
  std::vector<float> point_coords;    // (N, P, 2)
  std::vector<int32_t> point_labels;  // (N, P)
  std::vector<float> boxes;           // (N, 4) or empty
  std::vector<float> mask_input;      // (N, 256, 256) or empty

  static Prompts box(float x0, float y0, float x1, float y1) {
    Prompts prompts;
    prompts.num_prompts = 1;
    prompts.boxes = {x0, y0, x1, y1};
    return prompts;
  }

  static Prompts point(float x, float y) {
    Prompts prompts;
    prompts.num_prompts = 1;
    prompts.point_coords = {x, y};
    prompts.point_labels = {1};
    return prompts;
  }
};

// Answers to N prompts; see sparsesam_answer.
struct Masks {
  int32_t height = 0;
  int32_t width = 0;
  std::vector<uint8_t> masks;         // (N, height, width) 1 inside
  std::vector<int32_t> mask_indices;  // (N)
  std::vector<float> iou;             // (N)
};

// One thread's way to use an engine. Movable, not copyable.
class Context {
 public:
  // See sparsesam_encode.
  void encode(const float* images, int32_t batch, float* embeddings, float* interm_embeddings = nullptr,
              void* stream = nullptr) {
    detail::call(sparsesam_encode, handle_.get(), images, batch, embeddings, interm_embeddings, stream);
  }

  // See sparsesam_encode_image.
  void encode_image(const sparsesam_image& image, void* stream = nullptr) {
    detail::call(sparsesam_encode_image, handle_.get(), &image, stream);
    height_ = image.height;
    width_ = image.width;
  }

  // See sparsesam_use_embeddings.
  void use_embeddings(const float* embeddings, const float* interm_embeddings, int32_t height, int32_t width,
                      void* stream = nullptr) {
    detail::call(sparsesam_use_embeddings, handle_.get(), embeddings, interm_embeddings, height, width, stream);
    height_ = height;
    width_ = width;
  }

  // See sparsesam_predict. Throws Error, also when the vectors' sizes do not fit each other.
  [[nodiscard]] Masks predict(const Prompts& prompts, void* stream = nullptr) {
    if (prompts.num_prompts < 1) {
      throw Error(SPARSESAM_INVALID_INPUT, "no prompt was given; give at least one box or point.");
    }
    const auto count = static_cast<std::size_t>(prompts.num_prompts);
    const std::size_t num_points = prompts.point_labels.size() / count;
    constexpr std::size_t mask_size = std::size_t{SPARSESAM_LOW_RES} * SPARSESAM_LOW_RES;
    if (prompts.point_labels.size() != count * num_points || prompts.point_coords.size() != count * num_points * 2 ||
        (!prompts.boxes.empty() && prompts.boxes.size() != count * 4) ||
        (!prompts.mask_input.empty() && prompts.mask_input.size() != count * mask_size)) {
      throw Error(SPARSESAM_INVALID_INPUT,
                  "the vectors of Prompts do not fit num_prompts; give (N, P, 2), (N, P), (N, 4), (N, 256, 256).");
    }
    sparsesam_prompts given{};
    given.struct_size = sizeof given;
    given.num_prompts = prompts.num_prompts;
    given.num_points = static_cast<int32_t>(num_points);
    given.point_coords = prompts.point_coords.data();
    given.point_labels = prompts.point_labels.data();
    given.boxes = prompts.boxes.empty() ? nullptr : prompts.boxes.data();
    given.mask_input = prompts.mask_input.empty() ? nullptr : prompts.mask_input.data();

    Masks result;
    result.height = height_;
    result.width = width_;
    result.masks.resize(count * static_cast<std::size_t>(height_) * static_cast<std::size_t>(width_));
    result.mask_indices.resize(count);
    result.iou.resize(count);
    sparsesam_answer answer{};
    answer.struct_size = sizeof answer;
    answer.masks = result.masks.data();
    answer.mask_indices = result.mask_indices.data();
    answer.iou = result.iou.data();
    detail::call(sparsesam_predict, handle_.get(), &given, &answer, stream);
    return result;
  }

  [[nodiscard]] sparsesam_context* get() const noexcept { return handle_.get(); }

 private:
  friend class Engine;
  struct Destroy {
    void operator()(sparsesam_context* context) const noexcept { sparsesam_context_destroy(context); }
  };
  explicit Context(sparsesam_context* handle) : handle_(handle) {}

  std::unique_ptr<sparsesam_context, Destroy> handle_;
  int32_t height_ = 0;
  int32_t width_ = 0;
};

// A loaded engine, shared between threads. Movable, not copyable.
class Engine {
 public:
  // Throws Error with the reason and the remedy when the folder does not fit this machine.
  static Engine load(const std::string& path, int32_t device = 0, sparsesam_log log = nullptr,
                     void* log_user_data = nullptr) {
    sparsesam_options options{};
    options.struct_size = sizeof options;
    options.device = device;
    options.log = log;
    options.log_user_data = log_user_data;
    sparsesam_engine* engine = nullptr;
    detail::call(sparsesam_engine_load, path.c_str(), &options, &engine);
    return Engine(engine);
  }

  [[nodiscard]] Context create_context() const {
    sparsesam_context* context = nullptr;
    detail::call(sparsesam_context_create, handle_.get(), &context);
    return Context(context);
  }

  [[nodiscard]] sparsesam_info info() const {
    sparsesam_info info{};
    info.struct_size = sizeof info;
    detail::call(sparsesam_engine_info, handle_.get(), &info);
    return info;
  }

  [[nodiscard]] sparsesam_engine* get() const noexcept { return handle_.get(); }

 private:
  struct Destroy {
    void operator()(sparsesam_engine* engine) const noexcept { sparsesam_engine_destroy(engine); }
  };
  explicit Engine(sparsesam_engine* handle) : handle_(handle) {}

  std::unique_ptr<sparsesam_engine, Destroy> handle_;
};

}  // namespace sparsesam

#endif
