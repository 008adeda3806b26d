/**
 * `npm run circles`: no file imports itself by way of others, types included, and no folder one that stands above it.
 * eslint.config.js says which package may import which; this is about the files of each.
 */

/** Folders of the simulator, the lowest first: each imports only those before it. */
const simulator = 'shape machine books ranks network engine checks hosts world run'.split(' ')

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    {
      name: 'no-import-circles',
      comment: 'Move what both files need into a third one, or hand it over as an argument.',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    ...simulator.slice(0, -1).map((folder, i) => ({
      name: `simulator-${folder}-imports-down`,
      comment: 'Let the upper one hand over what the lower one shall call.',
      severity: 'error',
      from: { path: `^packages/simulator/src/${folder}/` },
      to: { path: `^packages/simulator/src/(${simulator.slice(i + 1).join('|')})/` },
    })),
  ],
  options: {
    exclude: { path: '(^|/)(node_modules|dist|build|prebuilds|results)/' },
    tsPreCompilationDeps: true,
  },
}
