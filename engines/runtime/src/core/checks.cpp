#include "core/checks.hpp"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <map>
#include <set>
#include <system_error>
#include <vector>

#include "core/failure.hpp"

namespace sparsesam {
namespace {

namespace fs = std::filesystem;

std::string rebuild(const EngineFolder& engine) {
  return "rebuild with `sparsesam-export build --builder tensorrt --output " + engine.folder.string() + "`";
}

[[noreturn]] void refuse(const std::string& sentence) { throw Failure(SPARSESAM_CHECK_FAILED, sentence); }

// The numbers of a version: "10.13.0.35" -> 10, 13, 0, 35. Compared as numbers without leading zeros, so that no figure
// is too large for an integer type.
struct Number {
  std::string digits;
  bool operator<(const Number& other) const {
    return digits.size() != other.digits.size() ? digits.size() < other.digits.size() : digits < other.digits;
  }
  bool operator==(const Number& other) const { return digits == other.digits; }
};

std::vector<Number> numbers(const std::string& version) {
  std::vector<Number> found;
  bool inside = false;
  for (const char character : version) {
    if (std::isdigit(static_cast<unsigned char>(character)) == 0) {
      inside = false;
      continue;
    }
    if (!inside) {
      found.emplace_back();
      inside = true;
    }
    std::string& digits = found.back().digits;
    if (digits == "0") {
      digits.clear();
    }
    digits += character;
  }
  return found;
}

// The very version it was built by; a version-compatible engine loads with later ones too.
bool loads_with(const Manifest& manifest, const std::string& version) {
  const std::vector<Number> found = numbers(version);
  const std::vector<Number> built = numbers(manifest.builder_version);
  return found == built || (manifest.version_compatible && built < found);
}

void check_size(const EngineFolder& engine, const FileRecord& record) {
  const fs::path path = engine.folder / record.name;
  if (!is_file(path)) {
    refuse(path.string() + ", named by its manifest, is missing; " + rebuild(engine) + ".");
  }
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error || size != record.bytes) {
    refuse(path.string() + " has " + std::to_string(error ? 0 : size) + " bytes, but its manifest says " +
           std::to_string(record.bytes) + "; " + rebuild(engine) + ".");
  }
}

[[noreturn]] void refuse_changed(const EngineFolder& engine, const FileRecord& record) {
  refuse((engine.folder / record.name).string() + " has changed since its manifest was written; " + rebuild(engine) +
         ".");
}

std::string plugin_names(const Manifest& manifest) {
  std::set<std::string> names;
  for (const PluginRequirement& plugin : manifest.plugins) {
    names.insert(plugin.name);
  }
  std::string text;
  for (const std::string& name : names) {
    text += (text.empty() ? "" : ", ") + name;
  }
  return text;
}

}  // namespace

void check_machine(const EngineFolder& engine, const Machine& machine) {
  const Manifest& manifest = engine.manifest;
  const std::string name = (engine.folder / manifest.engine.name).string();
  if (manifest.failed_parity) {
    refuse(engine.path.string() + " says that this build failed its parity check; see which with `sparsesam-export " +
           "verify " + engine.folder.string() + "`, and " + rebuild(engine) + ".");
  }
  if (manifest.builder != "tensorrt") {
    refuse(name + " was built by " + manifest.builder + " " + manifest.builder_version +
           ", but this runtime runs engines of tensorrt; " + rebuild(engine) + " or run it from Python.");
  }
  if (machine.lean && !manifest.version_compatible) {
    refuse(name +
           " is not version-compatible, but this program is linked with TensorRT's lean runtime; link with libnvinfer "
           "or rebuild with `sparsesam-export build --builder tensorrt --version-compatible --output " +
           engine.folder.string() + "`.");
  }
  if (machine.tensorrt_version && !loads_with(manifest, *machine.tensorrt_version)) {
    refuse(name + " was built by " + manifest.builder + " " + manifest.builder_version + ", but " +
           *machine.tensorrt_version + " is installed; " + rebuild(engine) + " or install TensorRT " +
           manifest.builder_version + ".");
  }
  const std::vector<std::string>& built_for = manifest.compute_capabilities;
  if (machine.compute_capability &&
      std::find(built_for.begin(), built_for.end(), *machine.compute_capability) == built_for.end()) {
    std::string names;
    for (const std::string& capability : built_for) {
      names += (names.empty() ? "" : ", ") + capability;
    }
    refuse(name + " was built for " + names + ", but this GPU is " + *machine.compute_capability +
           "; rebuild here with `sparsesam-export build --builder tensorrt --output " + engine.folder.string() + "`.");
  }
}

void check_libraries(const EngineFolder& engine) {
  const Manifest& manifest = engine.manifest;
  const std::string needs = manifest.engine.name + " needs the plugins " + plugin_names(manifest) + " of ";
  for (const PluginRequirement& plugin : manifest.plugins) {
    const fs::path path = engine.folder / plugin.library;
    if (!is_file(path)) {
      refuse(needs + path.string() + ", which is missing; copy the library there or " + rebuild(engine) + ".");
    }
  }
  check_size(engine, manifest.engine);
  if (manifest.decoder_engine) {
    check_size(engine, *manifest.decoder_engine);
  }
  std::map<std::string, std::string> hashes;
  for (const PluginRequirement& plugin : manifest.plugins) {
    const fs::path path = engine.folder / plugin.library;
    auto [entry, is_new] = hashes.try_emplace(plugin.library);
    if (is_new) {
      entry->second = sha256_file(path);
    }
    if (entry->second != plugin.sha256) {
      refuse(needs + "another " + plugin.library + " than " + path.string() + "; restore the library or " +
             rebuild(engine) + ".");
    }
  }
}

Content read_verified(const EngineFolder& engine, const FileRecord& record) {
  check_size(engine, record);
  const fs::path path = engine.folder / record.name;
  Content content = read_file(path, record.bytes, "engine of its manifest", "check its permissions.");
  if (content.size != record.bytes || sha256(content.view()) != record.sha256) {
    refuse_changed(engine, record);
  }
  return content;
}

void check_folder(const EngineFolder& engine, const Machine& machine) {
  check_machine(engine, machine);
  check_libraries(engine);
  for (const FileRecord* record :
       {&engine.manifest.engine, engine.manifest.decoder_engine ? &*engine.manifest.decoder_engine : nullptr}) {
    if (record != nullptr && sha256_file(engine.folder / record->name) != record->sha256) {
      refuse_changed(engine, *record);
    }
  }
}

}  // namespace sparsesam
