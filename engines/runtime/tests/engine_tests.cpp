// Engines of the stand-in, through the C++ classes: binding, threads, failures on the way, memory.
// usage: engine_tests FOLDER, with engine folders in it made by the Python tests: sam, hq, encoder_only, embedded,
// host_code, broken_engine, broken_plugin and failed_parity.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "sparsesam/engine.hpp"
#include "stand_in.h"

namespace {

constexpr std::size_t embedding = std::size_t{256} * 64 * 64;
constexpr std::size_t image_values = std::size_t{3} * 1024 * 1024;
constexpr std::size_t mask_values = std::size_t{256} * 256;

struct Bound {
  float* data = nullptr;
  std::vector<std::int64_t> shape;
};

// Encoder: every value of an image's embedding is the image's first value, interm_embeddings are twice that. Decoder:
// mask k of a prompt is the embedding's value plus the prompt's first x plus k, everywhere; HQ's the interm's value.
int32_t compute(void* /*user_data*/, int32_t count, const char* const* names, float* const* data, const int64_t* shapes,
                const int32_t* ranks) {
  std::map<std::string, Bound> tensors;
  for (int32_t i = 0; i < count; ++i) {
    tensors[names[i]] = {data[i], {shapes + i * 8, shapes + i * 8 + ranks[i]}};
  }
  if (tensors.count("image") == 1) {
    const Bound& image = tensors["image"];
    const auto batch = static_cast<std::size_t>(image.shape[0]);
    for (std::size_t b = 0; b < batch; ++b) {
      const float value = image.data[b * image_values];
      std::fill_n(tensors["image_embeddings"].data + b * embedding, embedding, value);
    }
    if (tensors.count("interm_embeddings") == 1) {
      const auto& shape = tensors["interm_embeddings"].shape;
      std::fill_n(tensors["interm_embeddings"].data,
                  static_cast<std::size_t>(shape[0] * shape[2] * shape[3] * shape[4]), 2 * image.data[0]);
    }
    return 0;
  }
  const Bound& coords = tensors["point_coords"];
  const auto prompts = static_cast<std::size_t>(coords.shape[0]);
  const auto points = static_cast<std::size_t>(coords.shape[1]);
  const auto masks = static_cast<std::size_t>(tensors["low_res_masks"].shape[1]);
  for (std::size_t n = 0; n < prompts; ++n) {
    const float base = tensors["image_embeddings"].data[embedding - 1] + coords.data[n * points * 2] +
                       (tensors["has_mask_input"].data[n] > 0 ? 1000 * tensors["mask_input"].data[n * mask_values] : 0);
    for (std::size_t k = 0; k < masks; ++k) {
      const float value = k < 4 ? base + static_cast<float>(k) : tensors["interm_embeddings"].data[0];
      std::fill_n(tensors["low_res_masks"].data + (n * masks + k) * mask_values, mask_values, value);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      tensors["iou_predictions"].data[n * 4 + k] = 0.1F * static_cast<float>(k + 1);
    }
  }
  return 0;
}

int32_t fail(void*, int32_t, const char* const*, float* const*, const int64_t*, const int32_t*) { return 1; }

template <typename Body>
std::string refusal(sparsesam_status status, const Body& body) {
  try {
    body();
  } catch (const sparsesam::Error& error) {
    CHECK(error.status() == status);
    return error.what();
  }
  return "";
}

// SAM's normalisation of a red value.
float normalised(float red) { return (red - 123.675F) / 58.395F; }

struct Picture {
  explicit Picture(uint8_t red, int32_t height = 30, int32_t width = 40)
      : pixels(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3, red),
        image{pixels.data(), height, width, 0} {}
  std::vector<uint8_t> pixels;
  sparsesam_image image;
};

void masks_come_from_the_current_image(const std::string& folder) {
  const auto engine = sparsesam::Engine::load(folder + "/sam");
  const sparsesam_info info = engine.info();
  CHECK(info.batch_max == 4 && info.has_decoder == 1 && info.num_masks == 4 && info.max_prompts == 64);
  CHECK(std::string(info.family) == "vit_b" && std::string(info.precision) == "fp16" && info.interm_shape[0] == 0);
  auto context = engine.create_context();
  CHECK(contains(refusal(SPARSESAM_INVALID_INPUT, [&] { (void)context.predict(sparsesam::Prompts::point(1, 1)); }),
                 "no image was encoded"));
  const Picture dark(0);
  context.encode_image(dark.image);  // every embedding value is (0 - 123.675) / 58.395 = -2.118
  const auto outside = context.predict(sparsesam::Prompts::box(0, 0, 10, 10));
  CHECK(outside.height == 30 && outside.width == 40 && outside.masks == std::vector<uint8_t>(1200, 0));
  CHECK(outside.mask_indices.front() == 0 && outside.iou.front() == 0.1F);
  const auto inside = context.predict(sparsesam::Prompts::box(1, 0, 10, 10));  // x 1 is 25.6 of 1024
  CHECK(inside.masks == std::vector<uint8_t>(1200, 1));
  const auto point = context.predict(sparsesam::Prompts::point(0, 0));  // the last of four has the best IoU
  CHECK(point.mask_indices.front() == 3 && point.masks.front() == 1);
  const float* embeddings = nullptr;
  sparsesam_error error;
  CHECK(sparsesam_embeddings(context.get(), &embeddings, nullptr, &error) == SPARSESAM_OK);
  CHECK(embeddings[0] == normalised(0) && embeddings[embedding - 1] == normalised(0));
}

void many_prompts_and_earlier_masks(const std::string& folder) {
  const auto engine = sparsesam::Engine::load(folder + "/sam");
  auto context = engine.create_context();
  const std::vector<float> cached(embedding, -500.0F);
  context.use_embeddings(cached.data(), nullptr, 1024, 1024);
  sparsesam::Prompts prompts;
  prompts.num_prompts = 3;
  prompts.boxes = {400, 0, 1000, 10, 600, 0, 1000, 10, 499, 0, 1000, 10};
  auto masks = context.predict(prompts);
  CHECK(masks.masks.size() == std::size_t{3} * 1024 * 1024);
  CHECK(masks.masks[0] == 0 && masks.masks[std::size_t{1} << 20U] == 1 && masks.masks.back() == 0);
  prompts.mask_input.assign(3 * mask_values, 0.2F);  // adds 200
  masks = context.predict(prompts);
  CHECK(masks.masks[0] == 1 && masks.masks.back() == 1);
  prompts.boxes.pop_back();
  CHECK(contains(refusal(SPARSESAM_INVALID_INPUT, [&] { (void)context.predict(prompts); }), "do not fit num_prompts"));
  prompts = {};
  prompts.num_prompts = 65;
  for (int i = 0; i < 65; ++i) {
    prompts.boxes.insert(prompts.boxes.end(), {0, 0, 1, 1});
  }
  CHECK(contains(refusal(SPARSESAM_INVALID_INPUT, [&] { (void)context.predict(prompts); }),
                 "65 prompts are more than the 64"));
  prompts = {};
  prompts.num_prompts = 1;
  prompts.point_coords.assign(32, 1.0F);
  prompts.point_labels.assign(16, 1);
  CHECK(contains(refusal(SPARSESAM_INVALID_INPUT, [&] { (void)context.predict(prompts); }),
                 "a prompt of 17 points, box corners and padding point included, is outside the 2 to 16"));
}

void batches_are_encoded_into_the_callers_memory(const std::string& folder) {
  const auto engine = sparsesam::Engine::load(folder + "/sam");
  auto context = engine.create_context();
  std::vector<float> images(4 * image_values);
  std::vector<float> embeddings(4 * embedding, NAN);
  for (std::size_t i = 0; i < 4; ++i) {
    images[i * image_values] = static_cast<float>(i);
  }
  context.encode(images.data(), 4, embeddings.data());
  CHECK(embeddings.front() == 0 && embeddings[embedding] == 1 && embeddings.back() == 3);
  CHECK(contains(refusal(SPARSESAM_INVALID_INPUT, [&] { context.encode(images.data(), 5, embeddings.data()); }),
                 "batch 5 is outside the engine's 1 to 4"));
  CHECK(contains(refusal(SPARSESAM_INVALID_INPUT, [&] { context.encode(images.data(), 1, nullptr); }),
                 "embeddings is NULL"));
  CHECK(contains(
      refusal(SPARSESAM_INVALID_INPUT, [&] { context.encode(images.data(), 1, embeddings.data(), images.data()); }),
      "not of a SAM-HQ model"));
}

void hq_hands_its_second_output_on(const std::string& folder) {
  const auto engine = sparsesam::Engine::load(folder + "/hq");
  CHECK(engine.info().num_masks == 5 && engine.info().interm_shape[4] == 8);
  auto context = engine.create_context();
  const Picture dark(0);  // embedding -2.118, HQ mask -4.236
  context.encode_image(dark.image);
  CHECK(context.predict(sparsesam::Prompts::point(0, 0)).masks.front() == 0);  // -2.118 + 3 - 4.236
  const Picture bright(255);                                                   // embedding 2.249, HQ mask 4.498
  context.encode_image(bright.image);
  CHECK(context.predict(sparsesam::Prompts::point(0, 0)).masks.front() == 1);
  const std::vector<float> cached(embedding, 0.0F);
  CHECK(contains(refusal(SPARSESAM_INVALID_INPUT, [&] { context.use_embeddings(cached.data(), nullptr, 9, 9); }),
                 "interm_embeddings is NULL"));
}

void failures_leave_a_usable_context(const std::string& folder) {
  const auto engine = sparsesam::Engine::load(folder + "/sam");
  auto context = engine.create_context();
  const Picture picture(0);
  context.encode_image(picture.image);
  stand_in_set_kernel(fail, nullptr);
  CHECK(contains(refusal(SPARSESAM_CHECK_FAILED, [&] { context.encode_image(picture.image); }),
                 "encoder.engine does not run (TensorRT refuses a kernel; TensorRT says: a kernel failed); rebuild"));
  stand_in_set_kernel(compute, nullptr);
  CHECK(contains(refusal(SPARSESAM_INVALID_INPUT, [&] { (void)context.predict(sparsesam::Prompts::point(1, 1)); }),
                 "no image was encoded"));
  context.encode_image(picture.image);
  stand_in_set_memory(1 << 20);
  sparsesam::Prompts prompts;
  prompts.num_prompts = 8;
  for (int i = 0; i < 8; ++i) {
    prompts.boxes.insert(prompts.boxes.end(), {0, 0, 1, 1});
  }
  CHECK(contains(refusal(SPARSESAM_ENVIRONMENT, [&] { (void)context.predict(prompts); }),
                 "CUDA cannot allocate memory (out of memory); free GPU memory or give a smaller batch."));
  stand_in_set_memory(INT64_MAX);
  CHECK(context.predict(prompts).masks.size() == std::size_t{8} * 1200);
}

void unusable_folders_are_refused(const std::string& folder) {
  const auto load = [&](const char* name, int32_t device = 0) {
    return [path = folder + "/" + name, device] { (void)sparsesam::Engine::load(path, device); };
  };
  CHECK(contains(refusal(SPARSESAM_CHECK_FAILED, load("broken_engine")),
                 "does not load (TensorRT says: Serialization assertion magicTag failed); rebuild it"));
  CHECK(contains(refusal(SPARSESAM_ENVIRONMENT, load("broken_plugin")),
                 "libsparsesam_plugins.so does not load (TensorRT says: invalid ELF header)"));
  CHECK(contains(refusal(SPARSESAM_CHECK_FAILED, load("failed_parity")), "this build failed its parity check; see"));
  CHECK(contains(refusal(SPARSESAM_ENVIRONMENT, load("sam", 1)), "CUDA device 1 does not exist, this machine has 1"));
  CHECK(contains(refusal(SPARSESAM_ENVIRONMENT, load("sam", -1)), "CUDA device -1 does not exist"));
  stand_in_set_devices(-1);
  CHECK(contains(refusal(SPARSESAM_ENVIRONMENT, load("sam")), "driver version is insufficient"));
  stand_in_set_devices(1);
  CHECK(sparsesam::Engine::load(folder + "/embedded").info().has_decoder == 1);
  CHECK(contains(refusal(SPARSESAM_CHECK_FAILED, load("host_code")), "carries host code, which was not allowed"));
  const auto engine = sparsesam::Engine::load(folder + "/encoder_only");
  CHECK(engine.info().has_decoder == 0);
  auto context = engine.create_context();
  context.encode_image(Picture(0).image);
  CHECK(contains(refusal(SPARSESAM_INVALID_INPUT, [&] { (void)context.predict(sparsesam::Prompts::point(1, 1)); }),
                 "encoder.engine stands without a decoder.engine"));
}

void messages_go_to_the_callers_log(const std::string& folder) {
  std::string heard;
  const auto listen = [](void* user_data, int32_t severity, const char* message) {
    *static_cast<std::string*>(user_data) += std::to_string(severity) + " " + message + "\n";
  };
  refusal(SPARSESAM_CHECK_FAILED, [&] { (void)sparsesam::Engine::load(folder + "/broken_engine", 0, listen, &heard); });
  CHECK(heard == "1 Serialization assertion magicTag failed\n1 and what follows from it\n");
}

void one_context_for_each_thread(const std::string& folder) {
  const auto engine = std::make_unique<sparsesam::Engine>(sparsesam::Engine::load(folder + "/sam"));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int index = 0; index < 4; ++index) {
    threads.emplace_back([&, index] {
      auto context = engine->create_context();
      const auto red = static_cast<uint8_t>(index * 80);
      const Picture picture(red, 20 + index, 30);
      for (int round = 0; round < 3; ++round) {
        context.encode_image(picture.image);
        const float* embeddings = nullptr;
        if (sparsesam_embeddings(context.get(), &embeddings, nullptr, nullptr) != SPARSESAM_OK ||
            embeddings[0] != normalised(red)) {
          ++wrong;
        }
        const auto masks = context.predict(sparsesam::Prompts::box(0, 0, 10, 10));
        const uint8_t expected = normalised(red) > 0 ? 1 : 0;
        if (masks.masks != std::vector<uint8_t>(static_cast<std::size_t>(20 + index) * 30, expected)) {
          ++wrong;
        }
        if (refusal(SPARSESAM_CHECK_FAILED, [&] {
              (void)sparsesam::Engine::load(folder + "/broken_engine");
            }).empty()) {
          ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(wrong == 0);
}

void contexts_keep_their_engine(const std::string& folder) {
  sparsesam_engine* engine = nullptr;
  sparsesam_context* context = nullptr;
  CHECK(sparsesam_engine_load((folder + "/sam/manifest.json").c_str(), nullptr, &engine, nullptr) == SPARSESAM_OK);
  CHECK(sparsesam_context_create(engine, &context, nullptr) == SPARSESAM_OK);
  sparsesam_engine_destroy(engine);
  const Picture picture(9);
  CHECK(sparsesam_encode_image(context, &picture.image, nullptr, nullptr) == SPARSESAM_OK);
  sparsesam_context_destroy(context);
  sparsesam_context_destroy(nullptr);
  sparsesam_engine_destroy(nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc == 2);
  const std::string folder = argv[1];
  stand_in_set_kernel(compute, nullptr);
  masks_come_from_the_current_image(folder);
  many_prompts_and_earlier_masks(folder);
  batches_are_encoded_into_the_callers_memory(folder);
  hq_hands_its_second_output_on(folder);
  failures_leave_a_usable_context(folder);
  unusable_folders_are_refused(folder);
  messages_go_to_the_callers_log(folder);
  one_context_for_each_thread(folder);
  contexts_keep_their_engine(folder);
  CHECK(stand_in_allocations() == 0);
  std::puts("engine tests passed");
  return 0;
}
