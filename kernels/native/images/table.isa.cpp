// One instruction set's table of the kernels on images.
#include "images/images.h"

namespace lumigraph::LUMIGRAPH_ISA {

void loss(const Loss &);
void adam(const Adam &);

extern const ImageKernels image_kernels;
const ImageKernels image_kernels = {.loss = loss, .adam = adam};

}  // namespace lumigraph::LUMIGRAPH_ISA
