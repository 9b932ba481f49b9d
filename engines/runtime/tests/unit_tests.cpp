// What has no C function of its own: the decoder's input layout, the choice of a mask, engines' tensors, arguments.
// Expected values are worked out by hand.
#include <getopt.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "check.hpp"
#include "core/answer.hpp"
#include "core/failure.hpp"
#include "core/layout.hpp"
#include "core/prompts.hpp"
#include "core/versioned.hpp"

namespace {

using sparsesam::TensorInfo;

// The message of the Failure or Error that `body` throws; empty when it throws none.
std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

void boxes_become_two_labelled_corners() {
  const std::vector<float> boxes{100, 50, 300, 150, 0, 0, 1, 1};
  sparsesam_prompts prompts{};
  prompts.num_prompts = 2;
  prompts.boxes = boxes.data();
  const auto decoder = sparsesam::decoder_prompts(prompts, {256, 512});  // scaled by 2
  CHECK(decoder.num_prompts == 2 && decoder.num_points == 2);
  CHECK((decoder.coords == std::vector<float>{200, 100, 600, 300, 0, 0, 2, 2}));
  CHECK((decoder.labels == std::vector<float>{2, 3, 2, 3}));
}

void points_end_with_padding_unless_a_box_follows() {
  const std::vector<float> points{10, 20, 30, 40};
  const std::vector<int32_t> labels{1, 0};
  const std::vector<float> box{5, 6, 7, 8};
  sparsesam_prompts prompts{};
  prompts.num_prompts = 1;
  prompts.num_points = 2;
  prompts.point_coords = points.data();
  prompts.point_labels = labels.data();
  const auto alone = sparsesam::decoder_prompts(prompts, {1024, 1024});
  CHECK((alone.coords == std::vector<float>{10, 20, 30, 40, 0, 0}));
  CHECK((alone.labels == std::vector<float>{1, 0, -1}));
  prompts.boxes = box.data();
  const auto boxed = sparsesam::decoder_prompts(prompts, {1024, 1024});
  CHECK((boxed.coords == std::vector<float>{10, 20, 30, 40, 5, 6, 7, 8}));
  CHECK((boxed.labels == std::vector<float>{1, 0, 2, 3}));
}

void each_axis_has_its_own_rounded_scale() {
  // 333 rows scale to int(333 * 1024 / 1000 + 0.5) = 341.
  const std::vector<float> box{0, 0, 1000, 333};
  sparsesam_prompts prompts{};
  prompts.num_prompts = 1;
  prompts.boxes = box.data();
  const auto decoder = sparsesam::decoder_prompts(prompts, {333, 1000});
  CHECK(decoder.coords[2] == 1024.0F && decoder.coords[3] == 341.0F);
}

void unusable_prompts_are_refused() {
  const auto refused = [](const std::vector<float>& box, const std::vector<float>& point, int32_t label) {
    return refusal([&] {
      sparsesam_prompts prompts{};
      prompts.num_prompts = 1;
      prompts.boxes = box.empty() ? nullptr : box.data();
      prompts.num_points = point.empty() ? 0 : 1;
      prompts.point_coords = point.data();
      prompts.point_labels = &label;
      sparsesam::decoder_prompts(prompts, {100, 100});
    });
  };
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(contains(refused({}, {}, 1), "no prompt was given"));
  CHECK(contains(refused({5, 5, 5, 9}, {}, 1), "box 5,5,5,9 has no area"));
  CHECK(contains(refused({0, 0, nan, 1}, {}, 1), "box 0,0,nan,1 is not finite"));
  CHECK(contains(refused({}, {nan, 1}, 1), "is not finite"));
  CHECK(contains(refused({}, {1, 1}, 2), "point label 2 is unknown"));
  CHECK(refused({}, {1, 1}, 0).empty());
  CHECK(contains(refusal([] {
                   sparsesam_prompts prompts{};
                   prompts.num_prompts = 1;
                   prompts.num_points = 3;
                   sparsesam::decoder_prompts(prompts, {100, 100});
                 }),
                 "point_coords is NULL"));
}

void masks_are_chosen_as_sam_does() {
  const std::vector<float> iou{0.9F, 0.2F, 0.7F, 0.6F};
  CHECK(sparsesam::chosen_mask(iou.data(), true) == 0);
  CHECK(sparsesam::chosen_mask(iou.data(), false) == 2);
}

// Constant masks, so that scaling leaves them as they are.
std::vector<float> constant_masks(const std::vector<float>& values) {
  std::vector<float> masks;
  for (const float value : values) {
    masks.insert(masks.end(), std::size_t{SPARSESAM_LOW_RES} * SPARSESAM_LOW_RES, value);
  }
  return masks;
}

void hq_answers_are_sums_with_the_fifth_mask() {
  const std::vector<float> iou{0.5F, 0.1F, 0.2F, 0.3F, 0.5F, 0.1F, 0.4F, 0.3F};
  const std::vector<float> masks = constant_masks({-1, -9, -9, 3, 2, -1, -9, 5, -9, -6});
  std::vector<uint8_t> inside(std::size_t{2} * 3 * 5, 7);
  std::vector<int32_t> indices(2, -1);
  std::vector<float> chosen_iou(2, -1);
  std::vector<float> all_iou(8, -1);
  std::vector<float> low_res(masks.size(), 0);
  sparsesam_answer answer{};
  answer.masks = inside.data();
  answer.mask_indices = indices.data();
  answer.iou = chosen_iou.data();
  answer.low_res_masks = low_res.data();
  answer.iou_predictions = all_iou.data();
  sparsesam::write_answer(answer, masks, iou, 5, true, {3, 5});
  CHECK((indices == std::vector<int32_t>{0, 0}));  // -1 + 2 = 1 inside, -1 - 6 outside
  CHECK((inside == std::vector<uint8_t>{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  CHECK((chosen_iou == std::vector<float>{0.5F, 0.5F}));
  CHECK(low_res == masks && all_iou == iou);
  sparsesam::write_answer(answer, masks, iou, 5, false, {3, 5});
  CHECK((indices == std::vector<int32_t>{3, 2}));  // 3 + 2 inside, 5 - 6 outside
  CHECK(inside.front() == 1 && inside.back() == 0);
  CHECK((chosen_iou == std::vector<float>{0.3F, 0.4F}));
}

std::vector<TensorInfo> encoder_tensors(bool hq) {
  std::vector<TensorInfo> tensors{{"image", true, true, {-1, 3, 1024, 1024}, {1, 3, 1024, 1024}, {4, 3, 1024, 1024}},
                                  {"image_embeddings", false, true, {-1, 256, 64, 64}, {}, {}}};
  if (hq) {
    tensors.push_back({"interm_embeddings", false, true, {4, -1, 64, 64, 768}, {}, {}});
  }
  return tensors;
}

std::vector<TensorInfo> decoder_tensors() {
  return {{"image_embeddings", true, true, {1, 256, 64, 64}, {1, 256, 64, 64}, {1, 256, 64, 64}},
          {"point_coords", true, true, {-1, -1, 2}, {1, 2, 2}, {64, 16, 2}},
          {"point_labels", true, true, {-1, -1}, {1, 2}, {64, 16}},
          {"mask_input", true, true, {-1, 1, 256, 256}, {1, 1, 256, 256}, {64, 1, 256, 256}},
          {"has_mask_input", true, true, {-1}, {1}, {64}},
          {"low_res_masks", false, true, {-1, 4, 256, 256}, {}, {}},
          {"iou_predictions", false, true, {-1, 4}, {}, {}}};
}

void layouts_are_found() {
  const auto plain = sparsesam::encoder_layout(encoder_tensors(false), "e");
  CHECK(plain.batch_min == 1 && plain.batch_max == 4 && !plain.has_interm && plain.interm_values() == 0);
  const auto hq = sparsesam::encoder_layout(encoder_tensors(true), "e");
  CHECK(hq.has_interm && hq.interm_values() == std::size_t{4} * 64 * 64 * 768 && hq.interm_shape[1] == -1);
  const auto decoder = sparsesam::decoder_layout(decoder_tensors(), plain, "d");
  CHECK(decoder.max_prompts == 64 && decoder.min_points == 2 && decoder.max_points == 16 && decoder.num_masks == 4);
}

void other_tensors_are_refused() {
  const auto encoder_with = [](const std::function<void(std::vector<TensorInfo>&)>& change) {
    auto tensors = encoder_tensors(true);
    change(tensors);
    return refusal([&] { sparsesam::encoder_layout(tensors, "e"); });
  };
  const auto decoder_with = [](const std::function<void(std::vector<TensorInfo>&)>& change, bool hq = false) {
    auto tensors = decoder_tensors();
    change(tensors);
    const auto encoder = sparsesam::encoder_layout(encoder_tensors(hq), "e");
    return refusal([&] { sparsesam::decoder_layout(tensors, encoder, "d"); });
  };
  using Tensors = std::vector<TensorInfo>;
  CHECK(contains(encoder_with([](Tensors& t) { t.erase(t.begin()); }), "has no input image"));
  CHECK(contains(encoder_with([](Tensors& t) { t[0].is_float32 = false; }), "another image than float32"));
  CHECK(contains(encoder_with([](Tensors& t) { t[0].is_input = false; }), "another image than"));
  CHECK(contains(encoder_with([](Tensors& t) { t[0].shape[3] = 512; }), "another image than"));
  CHECK(contains(encoder_with([](Tensors& t) { t[1].shape.pop_back(); }), "another image_embeddings than"));
  CHECK(contains(encoder_with([](Tensors& t) { t[2].shape[4] = -1; }), "unknown number of blocks"));
  CHECK(contains(encoder_with([](Tensors& t) { t.push_back(t[1]); }), "has 4 inputs and outputs where 3 are known"));
  CHECK(decoder_with([](Tensors&) {}).empty());
  CHECK(contains(decoder_with([](Tensors&) {}, true), "has no input interm_embeddings"));
  CHECK(contains(decoder_with([](Tensors& t) { t[5].shape[1] = 5; }), "answers with 5 masks"));
  CHECK(contains(decoder_with([](Tensors& t) { t[1].min_shape[0] = 2; }), "takes no single prompt"));
  CHECK(contains(decoder_with([](Tensors& t) { t[6].name = "iou"; }), "has no output iou_predictions"));
}

void structures_of_other_releases_are_refused() {
  sparsesam_prompts prompts{};
  prompts.num_points = 9;
  const auto with_size = [&](std::size_t size) {
    prompts.struct_size = size;
    return refusal([&] { sparsesam::versioned(&prompts, "sparsesam_prompts"); });
  };
  CHECK(with_size(sizeof prompts).empty());
  CHECK(contains(with_size(0), "sparsesam_prompts.struct_size is 0"));
  CHECK(contains(with_size(sizeof prompts + 8), "this library knows"));
  prompts.struct_size = sizeof(std::size_t);
  CHECK(sparsesam::versioned(&prompts, "sparsesam_prompts").num_points == 0);
}

sparsesam::command::Arguments parse(std::vector<std::string> words) {
  words.insert(words.begin(), "sparsesam-run");
  std::vector<char*> argv;
  for (std::string& word : words) {
    argv.push_back(word.data());
  }
  argv.push_back(nullptr);
  optind = 0;  // glibc: start afresh
  return sparsesam::command::parse_arguments(static_cast<int>(words.size()), argv.data());
}

void arguments_are_read() {
  const auto arguments = parse({"dir", "in.png", "--box", "1,2.5,30,40", "--point", "5,6", "--negative", "-7,8", "-o",
                                "out.png", "--device", "1", "--json"});
  CHECK(arguments.folder == "dir" && arguments.image == "in.png" && arguments.output == "out.png");
  CHECK((arguments.prompts.boxes == std::vector<float>{1, 2.5F, 30, 40}));
  CHECK((arguments.prompts.point_coords == std::vector<float>{5, 6, -7, 8}));
  CHECK((arguments.prompts.point_labels == std::vector<int32_t>{1, 0}));
  CHECK(arguments.device == 1 && arguments.json && arguments.prompts.num_prompts == 1);
  CHECK(parse({"--help"}).help && parse({"--version"}).version);
}

void unusable_arguments_are_refused() {
  const auto refused = [](const std::vector<std::string>& words) { return refusal([&] { parse(words); }); };
  CHECK(contains(refused({"dir"}), "takes a folder and an image, but 1 arguments"));
  CHECK(contains(refused({"dir", "in.png", "--point", "1,2"}), "give -o MASK.png"));
  CHECK(contains(refused({"dir", "in.png", "-o", "out.png"}), "no prompt was given; give --box"));
  CHECK(contains(refused({"dir", "in.png", "--colour"}), "option --colour is unknown"));
  CHECK(contains(refused({"dir", "in.png", "--box"}), "option --box is unknown or lacks its value"));
  CHECK(contains(refused({"--box", "1,2,3,4", "--box", "1,2,3,4"}), "--box is given twice"));
  CHECK(contains(refused({"--device", "1.5"}), "--device 1.5 is no CUDA device"));
  for (const char* box : {"", "1", "1,2,3", "1,2,3,4,5", "1,2,3,4,", "1, 2,3,4", "a,b,c,d", "1,2,3,nan", "1,2,3,inf",
                          "1;2;3;4", "1,,3,4", "0x1,2,3,4", "1e999,2,3,4"}) {
    CHECK(contains(refused({"--box", box}), std::string("--box ") + box + " is not 4 numbers"));
  }
}

}  // namespace

int main() {
  boxes_become_two_labelled_corners();
  points_end_with_padding_unless_a_box_follows();
  each_axis_has_its_own_rounded_scale();
  unusable_prompts_are_refused();
  masks_are_chosen_as_sam_does();
  hq_answers_are_sums_with_the_fifth_mask();
  layouts_are_found();
  other_tensors_are_refused();
  structures_of_other_releases_are_refused();
  arguments_are_read();
  unusable_arguments_are_refused();
  std::puts("unit tests passed");
  return 0;
}
