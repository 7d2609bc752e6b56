import type { z } from 'zod'
import { type BatchManifest, batchManifest } from './batch.ts'
import { type CommandManifest, commandManifest } from './command.ts'
import { type ConvertManifest, convertManifest } from './convert.ts'
import { type MaintenanceManifest, maintenanceManifest } from './others.ts'
import { type VmManifest, vmManifest } from './vm.ts'

export type Manifest = ConvertManifest | VmManifest | CommandManifest | MaintenanceManifest | BatchManifest
export type ManifestKind = Manifest['kind']

export const kinds = {
  convert: convertManifest,
  vm: vmManifest,
  command: commandManifest,
  maintenance: maintenanceManifest,
  batch: batchManifest,
} satisfies Record<ManifestKind, z.ZodObject>

export const kindNames = Object.keys(kinds) as readonly ManifestKind[]
