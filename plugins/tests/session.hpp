//! A script's state: the node that is described, and what TensorRT would do with its plugin.
#pragma once
#include <NvInferRuntime.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "device.hpp"
#include "expressions.hpp"

namespace plugin_host {

using namespace nvinfer1;

[[noreturn]] inline void stop(std::string const& problem) {
  std::cout << "error " << problem << std::endl;
  std::exit(1);
}

struct Field {
  std::string kind, name, value;
  std::int32_t integers[2]{};
  float number{};

  PluginField read() {
    std::istringstream(value) >> number;
    std::istringstream(value) >> integers[0];
    if (kind == "float32") {
      return {name.c_str(), &number, PluginFieldType::kFLOAT32, 1};
    }
    return {name.c_str(), kind == "null" ? nullptr : integers, PluginFieldType::kINT32, kind == "pair" ? 2 : 1};
  }
};

struct Tensor {
  DataType type;
  std::string file;
  Dims dims;

  std::size_t bytes() const {
    std::size_t const size = type == DataType::kFLOAT || type == DataType::kINT32 ? 4 : type == DataType::kINT8 ? 1 : 2;
    std::size_t count = 1;
    for (int i = 0; i < dims.nbDims; ++i) {
      count *= static_cast<std::size_t>(dims.d[i]);
    }
    return size * count;
  }
};

inline std::map<std::string, DataType> const kTypes{{"half", DataType::kHALF},
                                                    {"bf16", DataType::kBF16},
                                                    {"float", DataType::kFLOAT},
                                                    {"int32", DataType::kINT32},
                                                    {"int8", DataType::kINT8}};

inline std::string words(PluginFieldCollection const& fields) {
  std::ostringstream text;
  for (std::int32_t i = 0; i < fields.nbFields; ++i) {
    auto const& field = fields.fields[i];
    bool const real = field.type == PluginFieldType::kFLOAT32;
    text << " " << field.name << (real ? ":float32" : field.type == PluginFieldType::kINT32 ? ":int32" : ":other");
    if (field.data && real) {
      text << "=" << *static_cast<float const*>(field.data);
    } else if (field.data) {
      text << "=" << *static_cast<std::int32_t const*>(field.data);
    }
  }
  return text.str();
}

template <class Part>
Part& part(IPluginV3& plugin, PluginCapabilityType type) {
  auto* const found = plugin.getCapabilityInterface(type);
  return found ? *static_cast<Part*>(found) : (stop("a part of the plugin is missing"), *static_cast<Part*>(found));
}

inline DynamicPluginTensorDesc dynamic(Tensor const& tensor, std::int64_t maxBatch) {
  DynamicPluginTensorDesc desc{};
  desc.desc.type = tensor.type;
  desc.desc.format = TensorFormat::kLINEAR;
  desc.desc.dims = desc.min = desc.opt = desc.max = tensor.dims;
  if (tensor.type != DataType::kINT32 && tensor.dims.nbDims == 3) {  // activations alone have a batch axis
    desc.desc.dims.d[0] = -1;
    desc.min.d[0] = 1;
    desc.max.d[0] = std::max(maxBatch, tensor.dims.d[0]);
  }
  return desc;
}

class Session {
 public:
  explicit Session(std::vector<IPluginCreatorV3One*> creators) : mCreators(std::move(creators)) {}

  void command(std::istream& line) {
    std::string word;
    line >> word;
    if (word == "creators") {
      for (auto* creator : mCreators) {
        std::cout << "creator " << creator->getPluginName() << " '" << creator->getPluginVersion() << "' '"
                  << creator->getPluginNamespace() << "'" << words(*creator->getFieldNames()) << "\n";
      }
    } else if (word == "node") {
      line >> mNode;
      mFields.clear();
      mInputs.clear();
    } else if (word == "field") {
      Field field;
      line >> field.kind >> field.name >> field.value;
      mFields.push_back(field);
    } else if (word == "create") {
      line >> word;
      create(word == "build" ? TensorRTPhase::kBUILD : TensorRTPhase::kRUNTIME);
    } else if (word == "input") {
      Tensor tensor{};
      line >> word >> tensor.file;
      tensor.type = kTypes.at(word);
      while (tensor.dims.nbDims < Dims::MAX_DIMS && line >> tensor.dims.d[tensor.dims.nbDims]) {
        ++tensor.dims.nbDims;
      }
      mInputs.push_back(tensor);
    } else if (word == "describe") {
      std::int64_t maxBatch = 0;
      line >> maxBatch;
      describe(maxBatch);
    } else if (word == "run") {
      std::string mode, prefix;
      line >> mode >> prefix;
      run(mode, prefix);
    } else if (!word.empty()) {
      stop("unknown command " + word);
    }
    std::cout << std::flush;
  }

 private:
  std::unique_ptr<IPluginV3> make(PluginFieldCollection const& fields, TensorRTPhase phase) {
    for (auto* creator : mCreators) {
      if (mNode == creator->getPluginName()) {
        return std::unique_ptr<IPluginV3>(creator->createPlugin("layer", &fields, phase));
      }
    }
    stop("no creator " + mNode);
  }

  std::unique_ptr<IPluginV3> make(TensorRTPhase phase) {
    std::vector<PluginField> fields;
    for (auto& field : mFields) {
      fields.push_back(field.read());
    }
    return make({static_cast<std::int32_t>(fields.size()), fields.data()}, phase);
  }

  static PluginFieldCollection const& saved(IPluginV3& plugin) {
    return *part<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME).getFieldsToSerialize();
  }

  void create(TensorRTPhase phase) {
    auto plugin = make(phase);
    if (!plugin) {
      std::cout << "null\n";
      return;
    }
    auto& core = part<IPluginV3OneCore>(*plugin, PluginCapabilityType::kCORE);
    auto& build = part<IPluginV3OneBuild>(*plugin, PluginCapabilityType::kBUILD);
    std::cout << "created " << core.getPluginName() << words(saved(*plugin)) << "\n";
    std::cout << "timing_cache_id " << build.getTimingCacheID() << "\n";
    auto again = make(saved(*plugin), TensorRTPhase::kRUNTIME);
    std::unique_ptr<IPluginV3> copy(plugin->clone());
    plugin.reset();  // neither may live on the first one's memory
    std::cout << "again" << words(saved(*again)) << "\nclone" << words(saved(*copy)) << "\n";
  }

  void describe(std::int64_t maxBatch) {
    auto plugin = make(TensorRTPhase::kBUILD);
    auto& build = part<IPluginV3OneBuild>(*plugin, PluginCapabilityType::kBUILD);
    std::int32_t const outputs = build.getNbOutputs(), inputs = static_cast<std::int32_t>(mInputs.size());
    std::vector<DynamicPluginTensorDesc> io;
    for (auto const& input : mInputs) {
      io.push_back(dynamic(input, maxBatch));
    }
    mOutputs.assign(outputs, Tensor{});
    std::vector<DataType> types(outputs), inputTypes;
    for (auto const& input : mInputs) {
      inputTypes.push_back(input.type);
    }
    build.getOutputDataTypes(types.data(), outputs, inputTypes.data(), inputs);
    ExpressionBuilder expressions;
    std::vector<DimsExprs> shapes(outputs), inputShapes;
    for (auto const& input : mInputs) {
      inputShapes.push_back(expressions.shape(input.dims));
    }
    if (build.getOutputShapes(inputShapes.data(), inputs, nullptr, 0, shapes.data(), outputs, expressions)) {
      std::cout << "getOutputShapes failed\n";
      return;
    }
    for (std::int32_t i = 0; i < outputs; ++i) {
      mOutputs[i].type = types[i];
      mOutputs[i].dims = values(shapes[i]);
      io.push_back(dynamic(mOutputs[i], maxBatch));
      std::cout << "output " << static_cast<int>(types[i]);
      std::copy_n(mOutputs[i].dims.d, mOutputs[i].dims.nbDims,
                  std::ostream_iterator<std::int64_t>(std::cout << " ", " "));
      std::cout << "\n";
    }
    std::ostringstream formats;
    for (std::int32_t pos = 0; pos < inputs + outputs; ++pos) {
      auto poisoned = io;  // what lies behind pos is not decided yet
      std::fill(poisoned.begin() + pos + 1, poisoned.end(), DynamicPluginTensorDesc{});
      formats << " " << build.supportsFormatCombination(pos, poisoned.data(), inputs, outputs);
      poisoned[pos].desc.format = TensorFormat::kCHW32;
      formats << build.supportsFormatCombination(pos, poisoned.data(), inputs, outputs);
    }
    std::cout << "formats" << formats.str() << "\n";
    std::int32_t const configured = build.configurePlugin(io.data(), inputs, io.data() + inputs, outputs);
    std::cout << "configure " << configured << "\n";
    mWorkspace = build.getWorkspaceSize(io.data(), inputs, io.data() + inputs, outputs);
    std::cout << "workspace " << mWorkspace << "\n";
  }

  void run(std::string const& mode, std::string const& prefix) {
    Device device;
    std::vector<void const*> in;
    std::vector<PluginTensorDesc> inDescs, outDescs;
    for (auto const& input : mInputs) {
      std::ifstream file(input.file, std::ios::binary);
      std::vector<char> const content{std::istreambuf_iterator<char>(file), {}};
      if (content.size() != input.bytes()) {
        stop(input.file + " has another size than its shape");
      }
      in.push_back(device.upload(content));
      inDescs.push_back({input.dims, input.type, TensorFormat::kLINEAR, 1.F});
    }
    for (auto const& output : mOutputs) {
      outDescs.push_back({output.dims, output.type, TensorFormat::kLINEAR, 1.F});
    }
    // The engine keeps fields; each execution context gets a clone of its own, and memory of its own.
    auto built = make(TensorRTPhase::kBUILD);
    auto engine = make(saved(*built), TensorRTPhase::kRUNTIME);
    built.reset();
    struct Context {
      std::unique_ptr<IPluginV3> plugin;
      std::vector<void*> out;
      void* workspace;
      CUstream stream;
    };
    std::vector<Context> contexts;
    for (int i = 0; i < (mode == "two" ? 2 : 1); ++i) {
      auto& runtime = part<IPluginV3OneRuntime>(*engine, PluginCapabilityType::kRUNTIME);
      Context context{std::unique_ptr<IPluginV3>(runtime.attachToContext(nullptr)), {}, nullptr, device.stream()};
      for (auto const& output : mOutputs) {
        context.out.push_back(device.poisoned(output.bytes()));
      }
      context.workspace = device.poisoned(std::max<std::size_t>(mWorkspace, 1));
      contexts.push_back(std::move(context));
    }
    engine.reset();
    for (auto& context : contexts) {
      auto& runtime = part<IPluginV3OneRuntime>(*context.plugin, PluginCapabilityType::kRUNTIME);
      for (int call = 0; call < 2; ++call) {  // TensorRT calls it for new addresses too
        if (runtime.onShapeChange(inDescs.data(), static_cast<std::int32_t>(inDescs.size()), outDescs.data(),
                                  static_cast<std::int32_t>(outDescs.size()))) {
          std::cout << "onShapeChange failed\n";
          return;
        }
      }
    }
    int status = 0;
    auto const enqueue = [&](Context& context) {
      auto& runtime = part<IPluginV3OneRuntime>(*context.plugin, PluginCapabilityType::kRUNTIME);
      status |= runtime.enqueue(inDescs.data(), outDescs.data(), in.data(), context.out.data(), context.workspace,
                                context.stream);
    };
    if (mode == "graph") {
      device.replayed(
          contexts[0].stream, [&] { enqueue(contexts[0]); },
          [&] {
            for (std::size_t i = 0; i < mOutputs.size(); ++i) {  // what the capture may have written is not the result
              device.poison(contexts[0].out[i], mOutputs[i].bytes());
            }
          });
    } else {
      int const times = mode == "two" ? 20 : 1;
      for (int i = 0; i < times; ++i) {
        std::for_each(contexts.begin(), contexts.end(), enqueue);
      }
    }
    device.wait();
    std::cout << "enqueue " << status << "\n";
    for (std::size_t c = 0; c < contexts.size(); ++c) {
      for (std::size_t i = 0; i < mOutputs.size(); ++i) {
        auto const content = device.download(contexts[c].out[i], mOutputs[i].bytes());
        std::ofstream(prefix + std::to_string(c) + "_" + std::to_string(i), std::ios::binary)
            .write(content.data(), static_cast<std::streamsize>(content.size()));
      }
    }
    for (std::size_t i = 0; i < mOutputs.size(); ++i) {
      std::cout << "address " << contexts[0].out[i] << "\n";
    }
  }

  std::vector<IPluginCreatorV3One*> mCreators;
  std::string mNode;
  std::vector<Field> mFields;
  std::vector<Tensor> mInputs, mOutputs;
  std::size_t mWorkspace{};
};

}  // namespace plugin_host
