/**
 * `npm run circles`: no file imports itself by way of others, types included. eslint.config.js says which package may
 * import which; this is about the files of each.
 */

/** Files that still import each other in circles. The list only gets shorter. */
const inCircles = [
  'simulator/src/(bootstrap|checks|coverage|decode|engine|hosts|legs|network|prefill|process|world)',
]

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    {
      name: 'no-import-circles',
      comment: 'Move what both files need into a third one, or hand it over as an argument.',
      severity: 'error',
      from: { pathNot: `^packages/(${inCircles.join('|')})\\.ts$` },
      to: { circular: true },
    },
  ],
  options: {
    exclude: { path: '(^|/)(node_modules|dist|build|prebuilds|results)/' },
    tsPreCompilationDeps: true,
  },
}
