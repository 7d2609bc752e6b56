/** Which packages of node_modules the built program needs when it runs, as package-lock.json resolves them. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

interface Locked {
  dependencies?: Record<string, string>
  optionalDependencies?: Record<string, string>
  peerDependencies?: Record<string, string>
  peerDependenciesMeta?: Record<string, { optional?: boolean }>
}

/** `npm run dev` alone uses it. */
const notAtRunTime = ['tsx']

/** Folders below `root`, such as "node_modules/pino". @throws when one that is needed is not installed */
export function runtimeModules(root: string): string[] {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, Locked>
  }
  const found = new Set<string>()
  /** The way Node looks: beside the package that asks, then one folder higher each time. */
  const resolve = (name: string, from: string): string | undefined => {
    for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf('node_modules/') - 1))) {
      const path = `${at === '' ? '' : `${at}/`}node_modules/${name}`
      if (path in packages) return path
      if (at === '') return undefined
    }
  }
  const add = (name: string, from: string, needed: boolean): void => {
    const path = resolve(name, from)
    if (path === undefined || !existsSync(join(root, path))) {
      if (needed) throw new Error(`${name} is not installed in ${root}/node_modules. Run npm ci, then try again.`)
      return
    }
    if (found.has(path)) return
    found.add(path)
    follow(path)
  }
  const follow = (path: string): void => {
    const p = packages[path] ?? {}
    for (const name of Object.keys(p.dependencies ?? {})) {
      if (path !== '' || !notAtRunTime.includes(name)) add(name, path, true)
    }
    for (const name of Object.keys(p.optionalDependencies ?? {})) add(name, path, false)
    for (const name of Object.keys(p.peerDependencies ?? {})) {
      if (p.peerDependenciesMeta?.[name]?.optional !== true) add(name, path, true)
    }
  }
  follow('')
  if (![...found].some((p) => /^node_modules\/node-linux-/.test(p)))
    throw new Error(`The project's own Node (node-linux-*) is not installed in ${root}/node_modules. Run npm ci.`)
  return [...found].sort()
}
