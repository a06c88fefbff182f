# SPDX-License-Identifier: Apache-2.0
# bpf_object(NAME SOURCE): compiles SOURCE for the BPF machine, takes the debug sections off (BTF
# stays) and generates NAME.skel.h; target NAME_skeleton carries its directory and its making.
find_program(PF_CLANG NAMES clang REQUIRED)
find_program(PF_BPFTOOL NAMES bpftool REQUIRED)

# <linux/types.h> includes <asm/types.h>, which Debian keeps in the multiarch directory that clang
# does not search for this target.
set(PF_BPF_INCLUDES -I${CMAKE_SOURCE_DIR}/bpf/include)
if(CMAKE_LIBRARY_ARCHITECTURE)
  list(APPEND PF_BPF_INCLUDES -idirafter /usr/include/${CMAKE_LIBRARY_ARCHITECTURE})
endif()

function(bpf_object name source)
  set(out "${CMAKE_CURRENT_BINARY_DIR}/bpf")
  set(raw "${out}/${name}.raw.o")
  set(object "${out}/${name}.bpf.o")
  set(skeleton "${out}/${name}.skel.h")
  get_filename_component(folder "${CMAKE_CURRENT_SOURCE_DIR}/${source}" DIRECTORY)
  file(MAKE_DIRECTORY "${out}")

  add_custom_command(
    OUTPUT "${object}"
    COMMAND ${PF_CLANG} -target bpf -mcpu=v3 -g -O2 -std=gnu11 -Wall -Wextra -Werror
            ${PF_BPF_INCLUDES} -MD -MF "${raw}.d" -MT "${object}"
            -c "${CMAKE_CURRENT_SOURCE_DIR}/${source}" -o "${raw}"
    COMMAND ${PF_BPFTOOL} gen object "${object}" "${raw}"
    MAIN_DEPENDENCY "${source}"
    DEPFILE "${raw}.d"
    COMMENT "BPF ${name}"
    VERBATIM)
  # A failing bpftool must not leave an empty header behind that the next run takes for good.
  add_custom_command(
    OUTPUT "${skeleton}"
    COMMAND sh -c "\"$1\" gen skeleton \"$2\" name \"$3\" >\"$4.new\" && mv \"$4.new\" \"$4\""
            gen "${PF_BPFTOOL}" "${object}" "${name}_bpf" "${skeleton}"
    DEPENDS "${object}"
    COMMENT "BPF skeleton ${name}"
    VERBATIM)

  add_custom_target(${name}_skeleton_files DEPENDS "${skeleton}")
  add_library(${name}_skeleton INTERFACE)
  add_dependencies(${name}_skeleton ${name}_skeleton_files)
  # SYSTEM: bpftool writes the header, so our warnings are not its business.
  target_include_directories(${name}_skeleton SYSTEM INTERFACE "${out}")
  target_include_directories(${name}_skeleton INTERFACE "${folder}" "${CMAKE_SOURCE_DIR}/bpf/include")
endfunction()
