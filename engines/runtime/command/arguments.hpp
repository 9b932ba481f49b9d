// What was typed after `sparsesam-run`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sparsesam/engine.hpp"

namespace sparsesam::command {

struct Arguments {
  std::string folder;
  std::string image;
  std::string output;
  Prompts prompts;  // one
  std::int32_t device = 0;
  bool json = false;
  bool help = false;
  bool version = false;
};

extern const char* const usage;

// Error INVALID_INPUT: an unknown option, a missing or surplus argument, numbers that are none.
Arguments parse_arguments(int argc, char** argv);

// `count` numbers separated by commas, "305,15,364,71". `option` is named in the message.
// Error INVALID_INPUT: another count, or no numbers.
std::vector<float> parse_numbers(std::string_view text, std::size_t count, const std::string& option);

}  // namespace sparsesam::command
