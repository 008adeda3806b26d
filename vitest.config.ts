import { existsSync, readdirSync } from 'node:fs'
import { defineConfig } from 'vitest/config'

/** Packages whose tests load the model or start many processes: two files at once would starve each other. */
const oneFileAtATime = new Set(['llama', 'server', 'cli'])

/** A folder of such tests in a package whose other tests are quick: a project of its own. */
const chaos = { name: 'chaos', root: 'packages/proofs', folder: 'test/chaos', slow: true }

const packages = readdirSync('packages')
  .filter((name) => existsSync(`packages/${name}/package.json`))
  .map((name) => ({
    name,
    root: `packages/${name}`,
    folder: 'test',
    slow: oneFileAtATime.has(name),
  }))

export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: [...packages, chaos].map(({ name, root, folder, slow }) => {
      const setup = 'test/global-setup.ts'
      return {
        extends: true,
        test: {
          name,
          root,
          include: [`${folder}/**/*.test.ts`],
          exclude: root === chaos.root && name !== chaos.name ? [`${chaos.folder}/**`] : [],
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
