/** A module is called as it is imported, not after the file that it comes from. */
import { Converter, ReflectionKind } from 'typedoc'
import { readJson } from '../lib/repository.mjs'

export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const module of project.getChildrenByKind(ReflectionKind.Module)) {
      module.name = readJson(`${module.name.replace(/\/src$/, '')}/package.json`).name
    }
  })
}
