// Files with a size and a SHA-256 that they must have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace sparsesam {

// Bytes without the zeroing of std::vector: an engine of a ViT-H is over a gigabyte.
struct Content {
  std::unique_ptr<char[]> data;  // NOLINT(modernize-avoid-c-arrays)
  std::size_t size = 0;

  [[nodiscard]] std::string_view view() const { return {data.get(), size}; }
};

// Read a regular file of at most `max_bytes`. Failure INVALID_INPUT: it cannot be read or is larger; `what` says what a
// file of its kind is called ("engine manifest"), `remedy` what to do.
Content read_file(const std::filesystem::path& path, std::size_t max_bytes, const std::string& what,
                  const std::string& remedy);

// A regular file, links followed; false for anything else and for what cannot be looked at.
bool is_file(const std::filesystem::path& path);

// Hexadecimal SHA-256 of bytes.
std::string sha256(std::string_view content);

// The same of a file, read piece by piece. Failure INVALID_INPUT: it cannot be read.
std::string sha256_file(const std::filesystem::path& path);

}  // namespace sparsesam
