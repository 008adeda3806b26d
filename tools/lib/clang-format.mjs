/** The clang-format of this repository: pinned, since versions disagree about layout. */
import { pipTool } from './pip-tool.mjs'

const tool = pipTool({
  name: 'clang-format',
  version: '22.1.8',
  path: 'clang_format/data/bin/clang-format',
})

export const hasClangFormat = tool.has

/** Resolves to the path of the program, after having fetched it from PyPI when it is not there yet. */
export const clangFormat = tool.get
