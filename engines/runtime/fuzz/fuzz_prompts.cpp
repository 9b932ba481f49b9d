// Any text as --box or --point on an image of any size: finite coordinates for the decoder, or one sentence.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "arguments.hpp"
#include "core/failure.hpp"
#include "core/prompts.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::int32_t height = 0;
  std::int32_t width = 0;
  if (size < sizeof height + sizeof width) {
    return 0;
  }
  std::memcpy(&height, data, sizeof height);
  std::memcpy(&width, data + sizeof height, sizeof width);
  const std::string_view text(reinterpret_cast<const char*>(data) + sizeof height + sizeof width,
                              size - sizeof height - sizeof width);
  for (const std::size_t count : {std::size_t{2}, std::size_t{4}}) {
    try {
      const std::vector<float> numbers = sparsesam::command::parse_numbers(text, count, "--box");
      const std::int32_t label = 1;
      sparsesam_prompts prompts{};
      prompts.num_prompts = 1;
      if (count == 4) {
        prompts.boxes = numbers.data();
      } else {
        prompts.num_points = 1;
        prompts.point_coords = numbers.data();
        prompts.point_labels = &label;
      }
      const sparsesam::DecoderPrompts decoded = sparsesam::decoder_prompts(prompts, {height, width});
      if (decoded.labels.size() != 2 || decoded.coords.size() != 4) {
        std::abort();
      }
    } catch (const sparsesam::Error&) {
      continue;  // refused as text
    } catch (const sparsesam::Failure&) {
      continue;  // refused as a prompt
    }
  }
  return 0;
}
