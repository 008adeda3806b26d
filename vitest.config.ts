import { existsSync, readdirSync } from 'node:fs'
import { defineConfig } from 'vitest/config'

/** Packages whose tests load the model or start many processes: two files at once would starve each other. */
const oneFileAtATime = new Set(['llama', 'server', 'cli'])

/** Folders of such tests in a package whose other tests are quick: projects of their own. */
const apart = [
  ...['chaos', 'clients'].map((name) => ({ name, root: 'packages/proofs' })),
  { name: 'rdma', root: 'packages/mori' },
].map(({ name, root }) => ({ name, root, folder: `test/${name}`, slow: true }))

const packages = readdirSync('packages')
  .filter((name) => existsSync(`packages/${name}/package.json`))
  .map((name) => ({
    name,
    root: `packages/${name}`,
    folder: 'test',
    slow: oneFileAtATime.has(name),
  }))

/** Engines of somebody else's package, with the tests that such a package has. */
const examples = ['engine-typescript', 'engine-cpp'].map((name) => ({
  ...{ name, root: `examples/${name}`, folder: 'test', slow: false },
}))

export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: [...packages, ...apart, ...examples].map(({ name, root, folder, slow }) => {
      const setup = `${folder}/global-setup.ts`
      return {
        extends: true,
        test: {
          name,
          root,
          include: [`${folder}/**/*.test.ts`],
          exclude: folder === 'test' ? apart.map(({ folder }) => `${folder}/**`) : [],
          globalSetup: existsSync(`${root}/${setup}`) ? [setup] : [],
          // A process per file: addons and their threads end with it.
          pool: 'forks',
          // The quick packages first, side by side; then the others, file after file.
          sequence: { groupOrder: slow ? 1 : 0 },
          ...(slow ? { maxWorkers: 1 } : {}),
          // Only against hanging: a busy machine may take ten times as long as a quiet one.
          testTimeout: slow ? 180_000 : 60_000,
          hookTimeout: slow ? 180_000 : 60_000,
          // Built packages are loaded by Node itself, as a user's program would load them.
          server: { deps: { external: [/\/packages\/[^/]+\/dist\//] } },
        },
      }
    }),
  },
})
