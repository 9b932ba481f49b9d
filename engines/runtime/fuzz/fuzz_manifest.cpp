// Any bytes as a manifest: a manifest that is safe to use, or one sentence.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "core/failure.hpp"
#include "core/manifest.hpp"

namespace {

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

bool stays_in_folder(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const sparsesam::Manifest manifest =
        sparsesam::parse_manifest({reinterpret_cast<const char*>(data), size}, "manifest.json");
    require(stays_in_folder(manifest.engine.name));
    require(!manifest.decoder_engine || stays_in_folder(manifest.decoder_engine->name));
    for (const sparsesam::PluginRequirement& plugin : manifest.plugins) {
      require(stays_in_folder(plugin.library));
    }
    require(1 <= manifest.batch_min && manifest.batch_min <= manifest.batch_max);
  } catch (const sparsesam::Failure& failure) {
    require(failure.status() == SPARSESAM_INVALID_INPUT);
    require(std::strlen(failure.what()) < 600 && std::strchr(failure.what(), '\n') == nullptr);
  }
  return 0;
}
