// What the bindings take: tensors of the right type, shape and layout, without a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <initializer_list>
#include <optional>
#include <string>

namespace lumigraph {

namespace nb = nanobind;

// `noconvert` at each argument makes a wrong dtype or layout an error instead of a copy.
template <typename T>
using Array = nb::ndarray<nb::pytorch, T, nb::c_contig, nb::device::cpu>;
using In = Array<const float>;
using Out = Array<float>;
using MaskIn = Array<const bool>;

// The tensor's data, if its shape is the one expected; -1 stands for any size.
template <typename T>
T *checked(const Array<T> &array, const char *name, std::initializer_list<int64_t> shape) {
    bool ok = array.ndim() == shape.size();
    size_t axis = 0;
    for (int64_t size : shape) {
        ok = ok && (size < 0 || int64_t(array.shape(axis)) == size);
        ++axis;
    }
    if (ok) return array.data();
    std::string wanted, got;
    for (int64_t size : shape)
        wanted += (wanted.empty() ? "" : ", ") + (size < 0 ? "any" : std::to_string(size));
    for (size_t i = 0; i < array.ndim(); ++i)
        got += (i ? ", " : "") + std::to_string(array.shape(i));
    throw nb::value_error(
        (std::string(name) + " must be [" + wanted + "] but is [" + got + "]").c_str());
}

template <typename T>
T *checked(const std::optional<Array<T>> &array, const char *name,
           std::initializer_list<int64_t> shape) {
    return array ? checked(*array, name, shape) : nullptr;
}

}  // namespace lumigraph
