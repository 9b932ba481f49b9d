// Is an engine folder a good build, does it belong to this runtime and this GPU, and are its files those that were
// built?
#pragma once

#include <optional>
#include <string>

#include "core/files.hpp"
#include "core/manifest.hpp"

namespace sparsesam {

// What an engine is to run on; what is absent is not compared.
struct Machine {
  std::optional<std::string> tensorrt_version;    // "10.13.0.35"
  std::optional<std::string> compute_capability;  // "SM89"
  bool lean = false;  // TensorRT's lean runtime, which loads version-compatible engines only
};

// Refuse a build that failed its parity check; compare builder, version and GPU with the manifest. Failure
// CHECK_FAILED: the first mismatch.
void check_machine(const EngineFolder& engine, const Machine& machine);

// Compare all files' presence and sizes, then the plugin libraries' hashes. Failure CHECK_FAILED: the first mismatch.
void check_libraries(const EngineFolder& engine);

// The content of an engine file, read once and hashed as it will be used. Failure CHECK_FAILED: it has changed.
Content read_verified(const EngineFolder& engine, const FileRecord& record);

// All of the above, without keeping any content.
void check_folder(const EngineFolder& engine, const Machine& machine);

}  // namespace sparsesam
