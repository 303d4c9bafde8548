// The names by which OpenClaw knows the plugin.

/** The plugin. */
export const PLUGIN = "crabmesh";

/** Its channel. */
export const CHANNEL = "mesh";
