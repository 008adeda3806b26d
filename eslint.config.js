import js from '@eslint/js'
import { defineConfig, globalIgnores } from 'eslint/config'
import tseslint from 'typescript-eslint'

/** Which kvx packages the source of each package may import: the arrows point down only. */
const mayImport = {
  contract: [],
  core: ['@kvx/contract'],
  native: ['@kvx/contract'],
  vendor: ['@kvx/contract'],
  'rdma-lab': ['@kvx/contract', '@kvx/vendor'],
  conformance: ['@kvx/contract', '@kvx/native'],
  shm: ['@kvx/contract', '@kvx/native'],
  mori: ['@kvx/contract', '@kvx/native', '@kvx/vendor'],
  mooncake: ['@kvx/contract', '@kvx/native', '@kvx/vendor'],
  simulator: ['@kvx/contract', '@kvx/core', '@kvx/core/bytes', '@kvx/core/protocol'],
  bench: [
    ...['@kvx/contract', '@kvx/core', '@kvx/core/backend', '@kvx/core/bytes', '@kvx/native'],
    '@kvx/llama',
  ],
  proofs: [
    ...['@kvx/contract', '@kvx/core', '@kvx/core/bytes', '@kvx/core/protocol', '@kvx/core/wire'],
    ...['@kvx/bench', '@kvx/native', '@kvx/simulator'],
  ],
  llama: ['@kvx/contract', '@kvx/core', '@kvx/core/bytes', '@kvx/native', '@kvx/vendor'],
  server: ['@kvx/contract', '@kvx/core', '@kvx/native', '@kvx/llama'],
}

/** Everything of kvx except `names`; the command may import all, and nothing imports it. */
const otherKvx = (names) =>
  `^(kvx(/|$)|@kvx/(?!(${names.map((name) => name.replace('@kvx/', '')).join('|') || '$^'})$))`

const arrows = Object.entries(mayImport).map(([name, names]) => ({
  regex: otherKvx(names),
  message: `Of the kvx packages, ${name} may import ${names.join(', ') || 'none'}.`,
}))

const restrictImports = (...patterns) => ({
  '@typescript-eslint/no-restricted-imports': ['error', { patterns }],
})
const arrowOf = (name) => arrows[Object.keys(mayImport).indexOf(name)]

/** Folders of core that compute and nothing else, with the built-ins that are still computing. */
const pureFolders = {
  place: [],
  plan: [],
  pool: [],
  protocol: ['node:crypto'],
  shape: ['node:crypto'],
  share: [],
}

const clocksAndWorld = [
  ...[
    'setTimeout',
    'setInterval',
    'setImmediate',
    'clearTimeout',
    'clearInterval',
    'clearImmediate',
  ],
  ...['queueMicrotask', 'performance', 'process', 'fetch', 'console'],
]

const pure = Object.entries(pureFolders).map(([folder, builtins]) => ({
  files: [`packages/core/src/${folder}/**/*.ts`],
  rules: {
    ...restrictImports(
      arrowOf('core'),
      {
        regex: `^(?!\\.|@kvx/contract$|valibot$|(${builtins.join('|') || '$^'})$)`,
        message: `${folder}/ is pure: no input, output or clock.`,
      },
      {
        regex: '^\\.\\./(\\.\\./)*(control|bootstrap|manager)/(?!types\\.ts$)',
        message: `${folder}/ is pure: it does not know who carries it out.`,
      },
    ),
    'no-restricted-globals': [
      'error',
      ...clocksAndWorld.map((name) => ({ name, message: `${folder}/ is pure: pass it in.` })),
    ],
    'no-restricted-properties': [
      'error',
      { object: 'Date', property: 'now', message: `${folder}/ is pure: time is an argument.` },
      {
        object: 'Math',
        property: 'random',
        message: `${folder}/ is pure: randomness is an argument.`,
      },
      {
        object: 'crypto',
        property: 'randomBytes',
        message: `${folder}/ is pure: randomness is an argument.`,
      },
      {
        object: 'crypto',
        property: 'randomUUID',
        message: `${folder}/ is pure: randomness is an argument.`,
      },
    ],
    'no-restricted-syntax': [
      'error',
      {
        selector: 'NewExpression[callee.name="Date"]',
        message: `${folder}/ is pure: time is an argument.`,
      },
      { selector: ':function[async=true]', message: `${folder}/ is pure: it does not wait.` },
      { selector: 'ImportExpression', message: `${folder}/ is pure: it loads nothing.` },
    ],
  },
}))

export default defineConfig(
  globalIgnores([
    '**/node_modules/',
    '**/dist/',
    '**/build/',
    '**/prebuilds/',
    '**/results/',
    '.nx/',
  ]),
  { linterOptions: { reportUnusedDisableDirectives: 'error' } },
  js.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      // Reads of typed arrays and tables inside their bounds: `as number` would say the same, longer.
      '@typescript-eslint/no-non-null-assertion': 'off',
      // An `async` function without `await` is how a contract promises to reject instead of throw.
      '@typescript-eslint/require-await': 'off',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/no-unnecessary-condition': [
        'error',
        { allowConstantLoopConditions: 'only-allowed-literals' },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      eqeqeq: 'error',
      'no-console': 'error',
    },
  },
  ...Object.keys(mayImport).map((name) => ({
    files: [`packages/${name}/src/**/*.ts`],
    rules: restrictImports(arrowOf(name)),
  })),
  {
    files: ['packages/contract/src/**/*.ts'],
    rules: restrictImports({
      regex: '^(?!\\./)',
      message: 'The contract has no dependency at all: it imports only its own files.',
    }),
  },
  ...pure,
  {
    files: [
      'packages/{cli,bench}/src/**/*.ts',
      'packages/*/bench/**/*.ts',
      'packages/native/src/compile/main.ts',
    ],
    rules: { 'no-console': 'off' },
  },
  {
    files: ['packages/*/test/**/*.ts'],
    rules: {
      // Tests read JSON and hand wrong things to right functions on purpose.
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
      '@typescript-eslint/no-empty-function': 'off',
      '@typescript-eslint/unbound-method': 'off',
    },
  },
  {
    files: ['**/*.{js,mjs}'],
    languageOptions: {
      globals: Object.fromEntries(
        ['process', 'console', 'setTimeout', 'setInterval', 'clearTimeout', 'clearInterval']
          .concat(['URL', 'fetch', 'AbortSignal', 'Buffer', 'performance'])
          .map((name) => [name, 'readonly']),
      ),
    },
    rules: { eqeqeq: 'error' },
  },
  {
    // Runs in a browser.
    files: ['packages/server/page/*.js'],
    languageOptions: {
      globals: Object.fromEntries(
        ['document', 'sessionStorage', 'requestAnimationFrame', 'CSS', 'TextDecoder'].map(
          (name) => [name, 'readonly'],
        ),
      ),
    },
  },
)
