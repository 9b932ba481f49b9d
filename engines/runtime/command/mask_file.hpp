// Mask files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sparsesam::command {

// Write a mask, (height, width) of 0 and 1, as PNG of 8-bit grey 0 and 255, complete or not at all.
// Error INVALID_INPUT: the file cannot be written; ENVIRONMENT: the disk is full.
void write_mask(const std::string& path, const std::vector<std::uint8_t>& mask, std::int32_t height,
                std::int32_t width);

}  // namespace sparsesam::command
