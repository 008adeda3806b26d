/** What a machine must have before kvx can be built on it, and how to get it. */
import { spawnSync } from 'node:child_process'

const oldestNode = [20, 15]

const cxx = process.env.CXX || 'g++'
const cxx20Program = `#include <bit>
#include <concepts>
#include <span>
template <std::integral T> constexpr T first(std::span<const T> values) { return values[0]; }
int main() { const int one[] = {1}; return std::popcount(1u) - first<int>(one); }
`

/** Each returns what is wrong, or undefined. */
const checks = {
  linux: {
    name: 'Linux',
    hint: 'kvx uses memory files and process handles of the Linux kernel; on other systems run it in a container',
    problem: () => (process.platform === 'linux' ? undefined : `this is ${process.platform}`),
  },
  node: {
    name: `Node.js ${oldestNode.join('.')} or newer`,
    hint: 'https://nodejs.org, or a version manager such as nvm or fnm',
    problem: () => {
      const [major, minor] = process.versions.node.split('.').map(Number)
      const newEnough = major > oldestNode[0] || (major === oldestNode[0] && minor >= oldestNode[1])
      return newEnough ? undefined : `this is ${process.versions.node}`
    },
  },
  npm: {
    name: 'npm',
    debian: ['npm'],
    hint: 'it comes with Node.js',
    problem: () => problemOf('npm', ['--version']),
  },
  cxx20: {
    name: 'a C++20 compiler',
    debian: ['g++'],
    hint: 'GCC 11 or newer; or clang 14 or newer, named by the variable CXX',
    problem: () =>
      problemOf(cxx, ['-std=c++20', '-fsyntax-only', '-x', 'c++', '-'], cxx20Program) &&
      (problemOf(cxx, ['--version']) ?? `${cxx} does not compile C++20`),
  },
  make: {
    name: 'make',
    debian: ['make'],
    hint: 'GNU make',
    problem: () => problemOf('make', ['--version']),
  },
  python: {
    name: 'Python 3.8 or newer',
    debian: ['python3'],
    hint: 'https://www.python.org; node-gyp builds with it',
    problem: () => {
      const newEnough = 'import sys; sys.exit(sys.version_info < (3, 8))'
      return problemOf('python3', ['-c', newEnough])
    },
  },
  pip: {
    name: 'pip for Python 3',
    debian: ['python3', 'python3-pip'],
    hint: 'python3 -m ensurepip; it fetches the pinned clang-format, the demo model and vendor libraries',
    problem: () => problemOf('python3', ['-m', 'pip', '--version']),
  },
}

function problemOf(command, args, input = '') {
  const result = spawnSync(command, args, { input, encoding: 'utf8', timeout: 60_000 })
  if (result.error?.code === 'ENOENT') return `${command} was not found`
  if (result.error !== undefined) return `${command}: ${result.error.message}`
  const lines = result.stderr.trim().split('\n')
  return result.status === 0 ? undefined : `${command} failed: ${lines.at(-1) || 'no reason given'}`
}

/** A text that names everything of `names` that is missing, or undefined when nothing is. */
export function missing(names) {
  const lacking = [...new Set(names)]
    .map((name) => ({ ...checks[name], problem: checks[name].problem() }))
    .filter(({ problem }) => problem !== undefined)
  if (lacking.length === 0) return undefined
  const lines = lacking.map(
    ({ name, problem, hint, debian }) =>
      `  ${name}\n      ${problem}\n` +
      (debian === undefined
        ? `      how to get it: ${hint}`
        : `      Debian, Ubuntu: apt-get install ${debian.join(' ')}\n      elsewhere: ${hint}`),
  )
  const debian = [...new Set(lacking.flatMap((item) => item.debian ?? []))]
  const all =
    debian.length === 0
      ? ''
      : `On Debian or Ubuntu:\n  sudo apt-get install -y ${debian.join(' ')}\n\n`
  return `This machine lacks something that kvx needs.\n\n${lines.join('\n')}\n\n${all}Then give the same command again.`
}
